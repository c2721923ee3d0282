# nuketown.agents.NAME.secrets: where its keys lie in the SOPS file.
{ lib, ... }:

let
  inherit (lib) literalExpression literalMD mkOption types;
in
{ name, ... }:

{
  options.secrets = {
    sshKey = mkOption {
      type = types.nullOr types.str;
      default = null;
      defaultText = literalExpression ''"''${name}/ssh-key"'';
      example = "ada/ssh-key";
      description = "The path of its SSH key in the SOPS file. null: ${name}/ssh-key.";
    };

    gpgKey = mkOption {
      type = types.nullOr types.str;
      default = null;
      defaultText = literalMD ''"''${name}/gpg-key" where git.signing is gpg, else none'';
      example = "ada/gpg-key";
      description = "The path of its OpenPGP key there. null: ${name}/gpg-key where it signs with gpg, else none.";
    };

    gpgEncryption = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether its OpenPGP key has a subkey that others encrypt to, beside the one that signs.";
    };

    extraSecrets = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = { anthropic-key = "ada/anthropic-key"; };
      description = "Further secrets: the name of a file that the agent can read, and the path in the SOPS file.";
    };

    env = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = { ANTHROPIC_API_KEY = "anthropic-key"; };
      description = "Variables in its logins whose value is one of `extraSecrets`: the variable, and the name there.";
    };
  };
}
