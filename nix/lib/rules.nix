# What is refused, one rule a thing: `rules cfg` is a list of { name; offenders; }, each offender a message that begins
# with the option and ends with the cure. They need the options of nuketown alone, so they are asked without a system.
cfg:

let
  kit = import ./rules/kit.nix;
  of = file: import file kit cfg;
in
builtins.concatMap of [
  ./rules/agents.nix
  ./rules/persist.nix
  ./rules/keeping.nix
  ./rules/secrets.nix
  ./rules/clear.nix
  ./rules/storage.nix
  ./rules/places.nix
  ./rules/devices.nix
  ./rules/prompts.nix
]
