# Where the documents of an agent lie in its home: the names alone, for what must be said of them before they are made.
# Their texts come from `identity`, and a test holds these names against what it writes. Pure: builtins only.
let
  inherit (builtins) any elem filter head;
  nuketown = import ./lib.nix;
  presets = builtins.fromTOML (builtins.readFile ../town/presets.toml);

  gitConfig = ".config/git/config";

  on = condition: found: if condition then found else [ ];
  setsVariables = preset: (presets.${preset}.env or { }) != { };
  entriesOf = agent: filter (entry: entry ? preset) (nuketown.persistOf agent);

  # A preset that sets no variable cannot tell its program of another directory than the usual one.
  directory = preset: agent:
    let
      declared = filter (entry: entry.preset == preset && setsVariables preset) (entriesOf agent);
    in
    if declared == [ ] then presets.${preset}.path else (head declared).path;

  # Presets are named by the spec, so one that there is none of is told of there.
  plain = agent: any (entry: presets ? ${entry.preset} && setsVariables entry.preset) (entriesOf agent);
  secret = agent: agent.secrets.env != { };

  claude = agent:
    let
      dir = directory "claude-code" agent;
      named = agent.prompts.name != null;
    in
    [ "${dir}/AGENTS.md" "${dir}/CLAUDE.md" ]
    # A name that the spec is not given is made by who reads it.
    ++ on named [ "${dir}/agents/${agent.prompts.name}.md" ];

  prompts = agent:
    let
      has = runtime: elem runtime agent.prompts.runtimes;
    in
    on (has "claude-code") (claude agent)
    ++ on (has "agents-md") [ "AGENTS.md" ]
    ++ on (has "codex") [ "${directory "codex" agent}/AGENTS.md" ]
    ++ on (has "gemini") [ "${directory "gemini" agent}/GEMINI.md" ]
    ++ on (has "opencode") [ ".config/opencode/AGENTS.md" ];
in
{
  inherit directory gitConfig;

  # All but settings.json, which Claude Code replaces by rename: a link into the store would not outlast that.
  paths = agent:
    [ ".config/nuketown/identity.toml" gitConfig ]
    ++ on (plain agent) [ ".config/environment.d/50-nuketown.conf" ]
    ++ on (plain agent || secret agent) [ ".config/nuketown/environment.sh" ]
    ++ prompts agent;

  # Whether its logins have variables of ours to read.
  hasVariables = agent: plain agent || secret agent;

  # Whether `identity gen` has been here: the public half of an agent, which its documents speak of.
  isKnown = identities: name: identities != null && builtins.pathExists (identities + "/${name}/identity.toml");
}
