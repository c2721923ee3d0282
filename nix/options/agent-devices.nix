# nuketown.agents.NAME.devices: hardware that it may use.
{ lib, ... }:

let
  inherit (lib) literalExpression mkOption types;

  device.options = {
    subsystem = mkOption {
      type = types.str;
      example = "tty";
      description = ''
        The subsystem of the device, as udev has it. Attributes of a device of usb are its own; those of any other may
        be of what it is plugged into.
      '';
    };

    attrs = mkOption {
      type = types.attrsOf types.str;
      example = { idVendor = "0483"; idProduct = "5740"; };
      description = ''
        What must match: attributes as `udevadm info --attribute-walk` shows them, and patterns of udev(7).
        One at least tells it from most others: not `authorized` alone, and no value such as `*0*`.
      '';
    };

    action = mkOption {
      type = types.str;
      default = "add|bind";
      example = "add";
      description = "At which events of udev, joined by `|`. USB devices that change what they are need bind as well.";
    };

    permission = mkOption {
      type = types.str;
      default = "rw";
      example = "r";
      description = "What the agent may do: letters of rwx.";
    };

    group = mkOption {
      type = types.str;
      default = "plugdev";
      example = "dialout";
      description = "The group of the device node; it is created where nothing else does.";
    };
  };
in
{
  options.devices = mkOption {
    type = types.listOf (types.submodule device);
    default = [ ];
    example = literalExpression ''
      [ { subsystem = "tty"; attrs = { idVendor = "0483"; idProduct = "5740"; }; } ]
    '';
    description = "Devices that it may use, by access lists that udev sets.";
  };
}
