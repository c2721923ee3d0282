# What the modules share and what needs nothing but builtins: TOML, the spec made of the options, what names and paths
# may look like, and what is refused. `let nuketown = import ./lib.nix; in nuketown.toTOML { … }`
import ./lib/toml.nix
// import ./lib/grammar.nix
// import ./lib/values.nix
// import ./lib/spec.nix
// {
  rules = import ./lib/rules.nix;
  doubts = import ./lib/doubts.nix;
}
