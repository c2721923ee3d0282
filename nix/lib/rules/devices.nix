# Rules of devices: what gives an agent hardware gives it no more than was meant.
kit: cfg:

let
  inherit (kit) at eachOf option quote rule unless;
  inherit (builtins) any attrNames concatMap elem elemAt filter genList head length;
  # What says too little, for the programs too.
  data = builtins.fromTOML (builtins.readFile ../../../town/devices.toml);
  isCommon = name: elem name data.common || elem "${head (kit.parts "/" name)}/" data.common;
  tellsApart = device: name: !isCommon name && device.attrs.${name} != "" && kit.says device.attrs.${name};
  # Each device with the option that it stands in: agents.ada.devices[0].
  every = name: test: rule name (eachOf cfg (agentName: agent: concatMap
    (n: map (at (option agentName "devices[${toString n}]")) (test (elemAt agent.devices n)))
    (genList (n: n) (length agent.devices))));
in
[
  (every "no device matches everything" (device: [
    (unless (any (tellsApart device) (attrNames device.attrs))
      ("matches every device of the subsystem, or nearly so: name in attrs at least one attribute with a value of its "
        + "own, such as idVendor and idProduct"))
  ]))

  (every "subsystems" (device: [ (kit.subsystem device.subsystem) ]))
  (every "attributes have names of udev" (device: map kit.udevName (attrNames device.attrs)))
  (every "attributes have values of udev" (device:
    map (name: kit.udevValue device.attrs.${name}) (attrNames device.attrs)))
  (every "actions" (device: [ (kit.action device.action) ]))
  (every "permissions" (device: [ (kit.permission device.permission) ]))
  (every "groups" (device: [
    (kit.unixName device.group)
    (unless (!elem device.group data.groups)
      "the members of ${quote device.group} can become root: name a group for devices, such as \"plugdev\"")
  ]))
]
