# What values may look like: devices, sizes, time spans, URLs of stores, recipients. As in grammar.nix, each function
# gives null, or what is wrong and the cure.
let
  inherit (builtins) all any elem filter head isString match split stringLength;
  inherit (import ./grammar.nix) absolute endsWith first has line matching parts quote startsWith unless;

  uuid = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}";
  size = "[0-9]{1,9}(\\.[0-9]{1,3})?[KMGT]";

  isLabel = text: match "LABEL=[^ /\\\"'`$][^/\\\"'`$]*" text != null && !endsWith " " text;

  device = text: first [
    (line 4095 text)
    (if startsWith "/" text && text != "/" then absolute text else
      unless (match "(UUID=)?${uuid}" text != null || isLabel text)
        "${quote text} names no device: write a filesystem UUID as `blkid` shows it, LABEL=…, or an absolute path")
  ];

  subvolume = matching "[A-Za-z0-9@_][A-Za-z0-9@_.+-]{0,199}"
    "no plain name of a subvolume: write it without `/`: letters, digits, `@`, `_`, `.`, `+`, `-`";

  units = "usec|us|µs|μs|msec|ms|seconds|second|sec|s|minutes|minute|min|m|hours|hour|hr|h|days|day|d|weeks|week|w|"
    + "months|month|M|years|year|y";
  span = matching "( *[0-9]{1,12}(\\.[0-9]{1,6})? *(${units})?)+ *"
    "no time span: write it as in \"15min\" or \"1h 30min\"";

  # A span in seconds; one that is none is said above.
  seconds = text:
    let
      found = filter builtins.isList (split "([0-9]{1,12}(\\.[0-9]{1,6})?) *(${units})?" text);
      unit = name: lengths.${if name == null then "s" else name};
      one = groups: decimal (head groups) * unit (builtins.elemAt groups 2);
    in
    builtins.foldl' (sum: groups: sum + one groups) 0 found;
  decimal = text: builtins.fromJSON (head (match "0*([0-9]+(\\.[0-9]+)?)" text));
  lengths = builtins.listToAttrs (builtins.concatMap
    (unit: map (name: { inherit name; value = unit.length; }) unit.names)
    [
      { length = 0.000001; names = [ "usec" "us" "µs" "μs" ]; }
      { length = 0.001; names = [ "msec" "ms" ]; }
      { length = 1; names = [ "seconds" "second" "sec" "s" ]; }
      { length = 60; names = [ "minutes" "minute" "min" "m" ]; }
      { length = 3600; names = [ "hours" "hour" "hr" "h" ]; }
      { length = 86400; names = [ "days" "day" "d" ]; }
      { length = 604800; names = [ "weeks" "week" "w" ]; }
      { length = 2629800; names = [ "months" "month" "M" ]; }
      { length = 31557600; names = [ "years" "year" "y" ]; }
    ]);
  spanWithin = low: high: said: text: first [
    (span text)
    (unless (seconds text >= low && seconds text <= high) "${quote text} is outside of ${said}: choose one in between")
  ];
  every = spanWithin 1 31557600 "1s to 1y";
  wait = spanWithin 0 600 "0s to 10min";

  free = matching "[0-9]{1,2}(\\.[0-9]{1,3})?%|${size}"
    "neither a percentage nor a size: write it as in \"10%\" or \"20G\"";

  # A size in megabytes.
  megabytes = text:
    let
      groups = match "([0-9.]+)([KMGT])" text;
    in
    decimal (head groups) * { K = 1 / 1024.0; M = 1; G = 1024; T = 1048576; }.${builtins.elemAt groups 1};

  quota = text: first [
    (matching size "no size: write it as in \"20G\" (K, M, G, T)" text)
    (unless (match "0*(\\.0*)?[KMGT]" text == null) "${quote text} is nothing: write it as in \"20G\"; at least \"1M\"")
    (unless (megabytes text >= 1) "${quote text} is too little: at least \"1M\"")
    (unless (megabytes text < 8796093022208) "${quote text} is more than a home could have: write it as in \"20G\"")
  ];

  machine = matching "[0-9a-f]{32}" "not 32 hex digits in lower case: leave it out, or: openssl rand -hex 16";

  # No message repeats the URL: somebody may have put a password into it.
  store = text:
    let
      rest = head (builtins.match "[a-z0-9]*://(.*)" text);
      place = head (split "[?]" rest);
      bucket = head (split "/" place);
      options = if has [ "?" ] rest then builtins.substring (stringLength place + 1) (stringLength rest) rest else "";
      names = map (pair: head (split "=" pair)) (filter (pair: pair != "") (filter isString (split "&" options)));
      cure = "write s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION, file:///DIRECTORY, or null for none";
    in
    first [
      (line 1000 text)
      (unless (startsWith "s3://" text || startsWith "file://" text) "is no URL of a store: ${cure}")
      (unless (!has [ "#" ] text) "has a fragment (#…), which means nothing here: leave it out")
      (unless (!has [ "@" ] bucket)
        "has user info (…@) in it: put the credentials into a file, and name it in storeCredentials")
      (if startsWith "file://" text then fileStore rest cure else
        first [
          (unless (match "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]" bucket != null && !has [ ".." ] bucket)
            "names no bucket: ${cure}")
          (unless (all (name: elem name [ "endpoint" "region" "imds" ]) names)
            "has an option that is none of endpoint, region and imds: credentials go into storeCredentials")
          (unless (!has [ "@" "%40" ] options)
            "has user info (…@) in its endpoint: put the credentials into a file, and name it in storeCredentials")
        ])
    ];
  fileStore = rest: cure: first [
    (unless (!any (one: has [ one ] rest) [ "?" "%" ])
      "has `?` or `%` in its path: name the directory in plain characters")
    (unless (startsWith "/" rest && rest != "/" && absolute rest == null) "names no directory: ${cure}")
  ];

  # Nor does this repeat what was given: it may be a private key, pasted by mistake.
  recipient = text:
    unless
      (line 1000 text == null && any (pattern: match pattern text != null) [
        "age1[0-9a-z]{58}"
        "AGE1[0-9A-Z]{58}"
        "ssh-ed25519 [A-Za-z0-9+/]{60,}=*( .*)?"
        "(0[xX])?([0-9A-Fa-f] *){40}"
        "(0[xX])?([0-9A-Fa-f] *){64}"
      ])
      "is no recipient: write age1…, ssh-ed25519 AAAA…, or the 40 hex digits that `gpg --fingerprint` shows";

  # udev(7): a shell pattern, alternatives with `|`. What has no letter or digit outside of brackets matches anything,
  # and `0*|1*|2*|…` or `*0*` nearly anything: a pattern has two of them, and does not begin with `*`.
  says = text:
    let
      outside = one: builtins.concatStringsSep "" (parts "\\[[^]]*]?" one);
      letter = "([A-Za-z0-9]|[^ -~])";
      least = one: if has [ "*" "?" "[" ] one then ".*${letter}.*${letter}.*" else ".*${letter}.*";
    in
    all (one: !startsWith "*" one && match (least one) (outside one) != null) (parts "\\|" text);

  udevValue = text: first [
    (line 1000 text)
    (unless (text != "") "is empty: write the value that the device shows, or leave the attribute out")
    (unless (!has [ "\"" "\\" ] text)
      "${quote text} holds a quote or a backslash: write ? in its place, it matches any character")
  ];
  udevName = matching "[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}){0,7}"
    "no name of an attribute: write it as `udevadm info --attribute-walk` shows it, such as idVendor";
  subsystem = matching "[A-Za-z0-9_-]{1,64}" "no subsystem: write it as in \"usb\" or \"tty\"";

  once = words: builtins.length words == builtins.length (builtins.attrNames (builtins.listToAttrs (map named words)));
  named = name: { inherit name; value = null; };
  actions = [ "add" "remove" "change" "move" "online" "offline" "bind" "unbind" ];
  action = text: first [
    (line 1000 text)
    (unless (all (word: elem word actions) (parts "\\|" text) && once (parts "\\|" text))
      "${quote text} is no action of udev: join with |, each once: ${builtins.concatStringsSep ", " actions}")
  ];
  permission = text: first [
    (line 1000 text)
    (unless (match "[rwx]{1,3}" text != null && once (filter (one: one != "") (parts "" text)))
      "${quote text} is no permission: write the letters r, w, x that are given, each once")
  ];

  unixName = matching "_{0,2}[A-Za-z][A-Za-z0-9_-]{0,31}(\\.[A-Za-z0-9_-]{1,31})*"
    "no name of a user or group: letters, digits, `_`, `.` and `-`, at most 32";
  fileName = matching "[A-Za-z0-9][A-Za-z0-9._-]{0,99}" "no file name: letters, digits, `.`, `_` and `-`";
  variable = matching "[A-Za-z_][A-Za-z0-9_]{0,99}"
    "no name of a variable: letters, digits and `_`, and no digit first";
  # environ(7), bash(1), ld.so(8), systemd's own: what shells and the programs that they start go by.
  ownVariable = text: first [
    (variable text)
    (unless (!elem text ofLogins && !startsWith "LD_" text)
      "${quote text} has a meaning of its own for each login: name a variable of one program")
  ];
  ofLogins = [
    "BASHOPTS" "BASH_ENV" "DBUS_SESSION_BUS_ADDRESS" "ENV" "EUID" "HOME" "IFS" "LOGNAME" "OLDPWD" "PATH" "PPID"
    "PROMPT_COMMAND" "PS4" "PWD" "SHELL" "SHELLOPTS" "TMPDIR" "UID" "USER" "XDG_RUNTIME_DIR"
  ];
  documentName = matching "[a-z][a-z0-9-]{0,63}"
    "no name for an agent definition: lower-case letters, digits and `-`, at most 64";
  yamlFile = text: first [
    (line 4095 text)
    (unless (endsWith ".yaml" text || endsWith ".yml" text) "${quote text} is no YAML file: let its name end in .yaml")
  ];
in
{
  inherit
    action device documentName every fileName free machine once ownVariable permission quota recipient says span store
    subsystem subvolume udevName udevValue unixName variable wait yamlFile;
}
