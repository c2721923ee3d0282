# Rules of devices: what gives an agent hardware gives it no more than was meant.
kit: cfg:

let
  inherit (kit) at eachOf option rule unless;
  inherit (builtins) attrNames concatMap elemAt filter genList length;
  # Each device with the option that it stands in: agents.ada.devices[0].
  every = name: test: rule name (eachOf cfg (agentName: agent: concatMap
    (n: map (at (option agentName "devices[${toString n}]")) (test (elemAt agent.devices n)))
    (genList (n: n) (length agent.devices))));
in
[
  (every "no device matches everything" (device: [
    (unless (filter (name: device.attrs.${name} != "" && kit.says device.attrs.${name}) (attrNames device.attrs) != [ ])
      ("matches every device of the subsystem: name in attrs at least one attribute with a value, "
        + "such as idVendor and idProduct"))
  ]))

  (every "subsystems" (device: [ (kit.subsystem device.subsystem) ]))
  (every "attributes have names of udev" (device: map kit.udevName (attrNames device.attrs)))
  (every "attributes have values of udev" (device:
    map (name: kit.udevValue device.attrs.${name}) (attrNames device.attrs)))
  (every "actions" (device: [ (kit.action device.action) ]))
  (every "permissions" (device: [ (kit.permission device.permission) ]))
  (every "groups" (device: [ (kit.unixName device.group) ]))
]
