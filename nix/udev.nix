# Rules of udev(7) that give agents their devices, by access lists. Pure: builtins only.
#
#   import ./udev.nix { setfacl = "/path/of/setfacl"; } { ada = [ { subsystem = "tty"; attrs = { … }; … } ]; }
{ setfacl }:

agents:

let
  inherit (builtins) attrNames concatMap concatStringsSep map match replaceStrings;

  # A value in double quotes, in which udev knows no escape but \". What needs one is written e"…", which is read as C
  # reads it. Alternatives (|) and patterns (* ? []) are left: they are the matches that the spec means.
  quoted =
    value:
    if match "[^\\\\\"\n\r\t]*" value != null then
      ''"${value}"''
    else
      ''e"${
        replaceStrings
          [ "\\" "\"" "\n" "\r" "\t" ]
          [ "\\\\" "\\\"" "\\n" "\\r" "\\t" ]
          value
      }"'';

  # Where a value is assigned, and in RUN, udev puts something in the place of % and $; doubled they are themselves.
  plain = replaceStrings [ "%" "$" ] [ "%%" "$$" ];

  # A word of RUN, whose command line udev takes apart at blanks.
  word =
    text:
    if match "[A-Za-z0-9/._+=:@-]+" text != null then
      text
    else
      throw "nuketown: ${text} cannot stand in a udev rule: use letters, digits and ._+=:@-";

  # Attributes such as idVendor are those of the USB device. Where that is the device itself, ATTR looks at it alone:
  # ATTRS would also match whatever is plugged into a hub that matches. Nodes of other kinds (tty, hidraw, …) lie below
  # it, and only ATTRS looks upwards; all attributes of one rule must be found at one device there.
  key = subsystem: if subsystem == "usb" then "ATTR" else "ATTRS";

  rule =
    agent: device:
    let
      attribute = name: "${key device.subsystem}{${word name}}==${quoted device.attrs.${name}}";
    in
    concatStringsSep ", " (
      [
        "SUBSYSTEM==${quoted device.subsystem}"
        "ACTION==${quoted device.action}"
        # What has no node, such as the interface of a USB device, has nothing to give.
        ''ENV{DEVNAME}=="?*"''
      ]
      ++ map attribute (attrNames device.attrs)
      ++ [
        ''MODE="0660"''
        "GROUP=${quoted (plain device.group)}"
        # Run after mode and group are set, which would change the list's mask. Where a device is also given to whoever
        # sits at the machine (the tag uaccess), udev empties the list at each event: name those in `action` as well.
        ''RUN+="${word setfacl} -m u:${word agent}:${word device.permission} $env{DEVNAME}"''
      ]
    );

  rules = agent: map (device: "${rule agent device}\n") agents.${agent};
in
concatStringsSep "" (concatMap rules (attrNames agents))
