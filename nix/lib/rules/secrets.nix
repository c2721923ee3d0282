# The paths of keys and secrets in the SOPS file.
kit: cfg:

let
  inherit (kit) at eachOf option quote rule unless;
  inherit (builtins) attrNames concatMap elem elemAt filter genList length match;

  signsWithGpg = agent: elem agent.git.signing [ true "gpg" ];
  sshKey = name: agent: if agent.secrets.sshKey != null then agent.secrets.sshKey else "${name}/ssh-key";
  gpgKey = name: agent:
    if agent.secrets.gpgKey != null then agent.secrets.gpgKey
    else if signsWithGpg agent then "${name}/gpg-key" else null;

  keys = eachOf cfg (name: agent: [
    { where = option name "secrets.sshKey"; path = sshKey name agent; }
  ] ++ filter (key: key.path != null) [ { where = option name "secrets.gpgKey"; path = gpgKey name agent; } ]);
  extras = eachOf cfg (name: agent: map
    (key: { where = option name "secrets.extraSecrets.${key}"; path = agent.secrets.extraSecrets.${key}; })
    (attrNames agent.secrets.extraSecrets));

  # The pairs of a list, each once.
  pairs = list: concatMap
    (m: map (n: { one = elemAt list m; other = elemAt list n; }) (filter (n: n > m) (genList (n: n) (length list))))
    (genList (m: m) (length list));
  below = one: other: one.path != other.path && kit.startsWith "${one.path}/" other.path;
in
[
  (rule "secrets have paths" (map (found: at found.where (kit.secretPath found.path)) (keys ++ extras)))

  (rule "keys have paths of their own" (
    map
      (pair: at pair.other.where (unless (pair.one.path != pair.other.path)
        "${quote pair.other.path} is where ${pair.one.where} is: give each key a path of its own"))
      (pairs keys)
    ++ concatMap
      (extra: map
        (key: at extra.where (unless (key.path != extra.path)
          "${quote extra.path} is where ${key.where} is: a key is no extra secret, choose another path"))
        keys)
      extras
  ))

  (rule "no secret lies below another" (map
    (pair: at pair.other.where (unless (!below pair.one pair.other && !below pair.other pair.one)
      ("${quote pair.other.path} and ${quote pair.one.path} of ${pair.one.where}: one lies below the other: "
        + "choose paths beside each other")))
    (pairs (keys ++ extras))))

  (rule "files of secrets" (eachOf cfg (name: agent: map
    (file: at (option name "secrets.extraSecrets") (kit.fileName file))
    (attrNames agent.secrets.extraSecrets))))

  (rule "variables of secrets" (eachOf cfg (name: agent: map
    (variable: at (option name "secrets.env") (kit.first [
      (kit.ownVariable variable)
      (unless (agent.secrets.extraSecrets ? ${agent.secrets.env.${variable}})
        "${variable} names ${quote agent.secrets.env.${variable}}, which extraSecrets does not have: add it there")
    ]))
    (attrNames agent.secrets.env))))

  (rule "an encryption subkey has a key" (eachOf cfg (name: agent: [
    (at (option name "secrets.gpgEncryption") (unless (!agent.secrets.gpgEncryption || gpgKey name agent != null)
      "wants a subkey of an OpenPGP key, and there is none: set secrets.gpgKey = \"${name}/gpg-key\""))
  ])))

  (rule "recipients" (
    map (one: at "nuketown.recipients.humans" (kit.recipient one)) cfg.recipients.humans
    ++ map (host: at "nuketown.recipients.hosts.${host}" (kit.first [
      (kit.fileName host)
      (kit.recipient cfg.recipients.hosts.${host})
    ])) (attrNames cfg.recipients.hosts)
  ))

  (rule "humans can open the secrets" [
    (unless (cfg.recipients.hosts == { } || cfg.recipients.humans != [ ])
      ("nuketown.recipients.humans: names nobody, and hosts does: nobody could open the secrets "
        + "when a machine is lost: add the public half of your own key"))
  ])

  (rule "files of secrets by SOPS" [
    (if cfg.sopsFile == null then null else at "nuketown.sopsFile" (kit.yamlFile (toString cfg.sopsFile)))
    (at "nuketown.recoveryFile" (kit.first [
      (kit.yamlFile cfg.recoveryFile)
      (unless (match "(.*/)?\\.\\.?(/.*)?" cfg.recoveryFile == null || kit.startsWith "/" cfg.recoveryFile)
        "${quote cfg.recoveryFile} is no path in the checkout: write it without `.` and `..`")
    ]))
  ])
]
