# What agents are told, and the settings of Claude Code. The programs hold the settings against all that is published of
# them when the system is built; here is said what goes wrong most.
kit: cfg:

let
  inherit (kit) at each eachOf option quote rule unless;
  inherit (builtins) elem isInt isString;
  data = builtins.fromTOML (builtins.readFile ../../../town/claude-settings.toml);
  modes = data.settings.permissions.defaultMode;

  settings = name: agent: kit.leaves (kit.settingsOf name agent) agent.prompts.settings;

  mode = agent: agent.prompts.settings.permissions.defaultMode or null;
  isKnown = found: found == null || elem found modes;
  shown = found: if isString found then quote found else "this";
  cure = found:
    if isString found && data.mistaken ? ${found} then "write \"${data.mistaken.${found}}\""
    else "there are ${kit.joined modes}";
in
[
  (rule "names of documents" (each cfg (name: agent:
    if agent.prompts.name == null then null
    else at (kit.ofPrompts name agent "name" "agentName") (kit.documentName agent.prompts.name))))

  (rule "own definitions have names of their own" (each cfg (name: agent:
    at (option name "claudeCode.extraAgents") (unless (!(agent.claudeCode.extraAgents ? ${toString agent.prompts.name}))
      ("${quote agent.prompts.name} is the one that is made of these options: "
        + "choose another name, or another agentName")))))

  (rule "own definitions have names of files" (eachOf cfg (name: agent: map
    (title: at (option name "claudeCode.extraAgents") (kit.fileName title))
    (builtins.attrNames agent.claudeCode.extraAgents))))

  (rule "runtimes stand once" (each cfg (name: agent:
    at (option name "prompts.runtimes") (unless (kit.once agent.prompts.runtimes)
      "names a program twice: leave one of them out"))))

  (rule "tools" (eachOf cfg (name: agent: map
    (tool: at (option name "prompts.tools") (kit.first [
      (kit.word tool)
      (unless (builtins.match "[^,(]*(\\(.*\\))?[^,(]*" tool != null)
        "${quote tool} holds a comma, which makes two tools of it: write [ \"Read\" \"Edit\" ]")
    ]))
    agent.prompts.tools)))

  (rule "text of documents" (each cfg (name: agent:
    at (kit.ofPrompts name agent "extra" "extraPrompt") (kit.prose agent.prompts.extra))))

  (rule "modes of permission" (each cfg (name: agent:
    at "${kit.settingsOf name agent}.permissions.defaultMode" (unless (isKnown (mode agent))
      "${shown (mode agent)} is none that Claude Code has: ${cure (mode agent)}"))))

  (rule "permissions are a table of lists" (each cfg (name: agent:
    let
      found = agent.prompts.settings.permissions or { };
      lists = builtins.filter (key: found ? ${key} && !builtins.isList found.${key}) [ "allow" "ask" "deny" ];
      where = "${kit.settingsOf name agent}.permissions";
    in
    if !builtins.isAttrs found then at where "is no table: write it as in { defaultMode = \"acceptEdits\"; }"
    else at where (unless (lists == [ ])
      "${kit.joined lists}: no list: write it as in [ \"Bash(npm run *)\" \"Read\" ]"))))

  (rule "settings that TOML can say" (eachOf cfg (name: agent: map
    (leaf: at leaf.where (unless (leaf.value != null) "is null, which TOML cannot say: leave the key out"))
    (settings name agent))))

  (rule "integers that JSON carries" (eachOf cfg (name: agent: map
    (leaf: at leaf.where (unless (!isInt leaf.value || kit.within (0 - 9007199254740992) 9007199254740992 leaf.value)
      "is beyond 2^53, which JSON does not carry safely: write it as a string"))
    (settings name agent))))

  (rule "settings that are text" (eachOf cfg (name: agent: map
    (leaf: if isString leaf.value then at leaf.where (kit.prose leaf.value) else null)
    (settings name agent))))
]
