# Where things may not lie relative to each other: an agent changes what is in its home, and each boot empties it.
kit: cfg:

let
  inherit (kit) at inside quote rule unless;
  apart = "name a place that only root can change";
  isOfAgents = found:
    inside cfg.agentsDir found || (cfg.persistDir != null && inside "${cfg.persistDir}/agents" found);
  trusted = key: found:
    if found == null then null
    else at "nuketown.${key}" (unless (!isOfAgents (toString found))
      "${quote (toString found)} lies where agents write: ${apart}");

  storeDir =
    if cfg.store != null && kit.startsWith "file://" cfg.store
    then builtins.substring 7 (builtins.stringLength cfg.store) cfg.store else null;
  kept = [ cfg.agentsDir ]
    ++ (if cfg.persistDir == null then [ ] else [ "${cfg.persistDir}/agents" "${cfg.persistDir}/.nuketown" ]);
  overlaps = one: other: inside one other || inside other one;
  # systemd's own tmpfiles.d/tmp.conf.
  isCleared = found: kit.startsWith "/tmp/" found || kit.startsWith "/var/tmp/" found;
in
[
  (rule "agentsDir" [ (at "nuketown.agentsDir" (kit.place cfg.agentsDir)) ])
  (rule "persistDir" [ (if cfg.persistDir == null then null else at "nuketown.persistDir" (kit.place cfg.persistDir)) ])

  # Not in `place`, which the programs have too: there a town may lie below /tmp, to try something.
  (rule "nothing lies where things are cleared away" (map
    (key: at "nuketown.${key}" (unless (cfg.${key} == null || !isCleared cfg.${key})
      "${quote cfg.${key}} lies where files are cleared away by age: name a directory elsewhere, such as /srv/${key}"))
    [ "agentsDir" "persistDir" ]))

  (rule "agentsDir and persistDir are apart" [
    (at "nuketown.persistDir" (unless (cfg.persistDir == null || !overlaps cfg.agentsDir cfg.persistDir)
      "${quote cfg.persistDir} and agentsDir are one, or one lies inside the other: give each a directory of its own"))
  ])

  (rule "what root trusts is not the agents'" [
    (trusted "sopsFile" cfg.sopsFile)
    (trusted "storeCredentials" cfg.storeCredentials)
    (trusted "hostKey.age" cfg.hostKey.age)
    (trusted "hostKey.ssh" cfg.hostKey.ssh)
    (trusted "hostKey.gnupg" cfg.hostKey.gnupg)
    (trusted "btrfsDevice" cfg.btrfsDevice)
  ])

  (rule "a store of files is apart from what it is a copy of" [
    (unless (storeDir == null || !builtins.any (overlaps storeDir) kept)
      "nuketown.store: overlaps the homes or the data that it is a copy of: name a directory beside them")
  ])

  (rule "what hosts can open is not what is for humans" [
    (unless (cfg.sopsFile == null || !kit.endsWith "/${cfg.recoveryFile}" "/${toString cfg.sopsFile}")
      "nuketown.recoveryFile: ${quote cfg.recoveryFile} is sopsFile too, which hosts can open: name another")
  ])
]
