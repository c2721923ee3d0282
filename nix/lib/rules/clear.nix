# Nothing secret comes into the Nix store in clear: everybody on the machine reads it, and binary caches carry it.
kit: cfg:

let
  inherit (kit) at each eachOf has option rule unless;
  inherit (builtins) attrNames filter isPath isString readDir readFile storeDir;

  # Links of a system lead there too.
  links = [ "/etc/static" "/run/booted-system" "/run/current-system" "/nix/var/nix/profiles" ];
  inStore = found: isPath found || builtins.any (at: kit.inside at (toString found)) ([ storeDir ] ++ links);
  file = key: what: found:
    if found == null then null
    else at "nuketown.${key}" (unless (!inStore found)
      ("${what} would lie in the Nix store, in clear: "
        + "write a string that names a file of the machine, such as \"/run/secrets/…\""));

  # What lies in the store by itself has the store as its directory, which is not to be listed.
  isDirectory = found: dirOf (toString found) != storeDir && (readDir (dirOf found)).${baseNameOf found} == "directory";
  isFile = found: kit.isThere found && !isDirectory found;
  text = if cfg.sopsFile != null && isFile cfg.sopsFile then readFile cfg.sopsFile else null;
  # SOPS writes its own table at the top level; YAML may be written as JSON.
  isSealed = has [ "\nsops:" "\"sops\":" ] "\n${text}" && !kit.holdsSecret text;

  # All that the store would hold of an agent's documents, those of its own too.
  texts = name: agent: filter (leaf: isString leaf.value) (
    kit.leaves (kit.settingsOf name agent) agent.prompts.settings
    ++ kit.leaves (option name "prompts") { inherit (agent.prompts) tools; }
    ++ kit.leaves (option name "claudeCode") { inherit (agent.claudeCode) extraAgents; }
  );
in
[
  (rule "keys and credentials are files of the machine" [
    (file "storeCredentials" "the credentials of the store" cfg.storeCredentials)
    (file "hostKey.age" "the machine's private key" cfg.hostKey.age)
    (file "hostKey.ssh" "the machine's private key" cfg.hostKey.ssh)
    (file "hostKey.gnupg" "the machine's private keys" cfg.hostKey.gnupg)
  ])

  (rule "the secrets file is encrypted" [
    (at "nuketown.sopsFile" (unless (text == null || isSealed)
      ("${baseNameOf (toString cfg.sopsFile)} is not encrypted, and would lie in the Nix store in clear: "
        + "`sops encrypt --in-place` it, and make new keys, or let `nix run .#identity -- gen` make it")))
  ])

  (rule "no private key stands in an option" (eachOf cfg (name: agent: map
    (leaf: at leaf.where (unless (!kit.holdsSecret leaf.value)
      "holds a private key, which everybody could read in the Nix store: take it out, and make a new one"))
    (texts name agent))))

  (rule "no token stands in the settings" (each cfg (name: agent:
    let
      data = builtins.fromTOML (builtins.readFile ../../../town/claude-settings.toml);
      env = agent.prompts.settings.env or { };
      isToken = one: builtins.elem one data.secret;
      tokens = if builtins.isAttrs env then filter isToken (attrNames env) else [ ];
    in
    at "${kit.settingsOf name agent}.env" (unless (tokens == [ ])
      ("${kit.joined tokens} would lie in the Nix store in clear: put the value into the SOPS file "
        + "(secrets.extraSecrets), and name it in ${option name "secrets.env"}")))))
]
