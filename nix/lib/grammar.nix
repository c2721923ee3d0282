# What names, paths and values may look like, as town/grammar.py has it: the programs check everything again when the
# system is built, and these say it while it is evaluated. Each function gives null, or what is wrong and the cure.
let
  inherit (builtins)
    all any concatMap elem filter genList isString match replaceStrings split stringLength substring toJSON;

  hex = "0123456789ABCDEF";
  digit = n: substring n 1 hex;
  character = code: builtins.fromJSON ''"\u${code}"'';
  byte = n: character "00${digit (n / 16)}${digit (n - n / 16 * 16)}";

  newlineOrTab = [ "\n" "\t" ];
  control = genList (n: byte (n + 1)) 31 ++ genList (n: byte (n + 127)) 33;
  # Bidirectional and invisible formatting: what is shown would not be what is there.
  invisible = map character [
    "00AD" "061C" "200B" "200C" "200D" "200E" "200F" "2028" "2029" "202A" "202B" "202C" "202D" "202E"
    "2060" "2061" "2062" "2063" "2064" "2066" "2067" "2068" "2069" "FEFF"
  ];
  has = characters: text: replaceStrings characters (map (_: "") characters) text != text;

  startsWith = prefix: text: substring 0 (stringLength prefix) text == prefix;
  endsWith = suffix: text:
    let
      at = stringLength text - stringLength suffix;
    in
    at >= 0 && substring at (stringLength suffix) text == suffix;
  parts = separator: text: filter isString (split separator text);

  holdsSecret = text: has [ "PRIVATE KEY-----" "AGE-SECRET-KEY-1" "age-secret-key-1" "AGE-SECRET-KEY-PQ-1" ] text;

  quote = text:
    if holdsSecret text then "(a private key, not shown)"
    else toJSON (if stringLength text > 60 then "${substring 0 60 text}…" else text);

  # The first of them that is wrong; what comes after it is not asked, so it may take for granted what stands before.
  first = found:
    if found == [ ] then null
    else if builtins.head found != null then builtins.head found
    else first (builtins.tail found);
  unless = condition: message: if condition then null else message;

  hidden = allowed: text: first [
    (unless (!holdsSecret text) "holds a private key: take it out, and make a new one; everybody reads the Nix store")
    (unless (!has (filter (c: !elem c allowed) control) text) "holds a control character: remove it")
  ];

  prose = hidden newlineOrTab;

  line = length: text: first [
    (hidden [ ] text)
    (unless (!has invisible text) "holds an invisible formatting character: remove it")
    (unless (stringLength text <= length) "is too long: at most ${toString length} bytes fit here")
  ];

  # A regular expression is asked only about text that is short: std::regex recurses for each character.
  matching = pattern: message: text: first [
    (line 1000 text)
    (unless (match pattern text != null) "${quote text} is ${message}")
  ];

  yamlWords = [ "y" "n" "yes" "no" "on" "off" "true" "false" "null" "~" ];
  unencrypted = text: endsWith "_unencrypted" text || endsWith "-unencrypted" text;

  agentName = text: first [
    (matching "[a-z][a-z0-9-]{0,30}"
      "no name for an agent: a lower-case letter, then lower-case letters, digits and `-`, at most 31" text)
    (unless (!elem text ([ "sops" "root" ] ++ yamlWords)) "${quote text} means something else: choose another name")
    (unless (!unencrypted text) "${quote text} ends as keys do that SOPS leaves in clear: choose another name")
  ];

  label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
  domain = text: first [
    (line 200 text)
    (unless (all (one: match label one != null) (parts "\\." text))
      "${quote text} is no domain: write it as in \"signi.local\" (xn--… for other letters)")
  ];

  email = text:
    let
      local = "[A-Za-z0-9_][A-Za-z0-9_%+=~'-]*(\\.[A-Za-z0-9_%+=~'-]+)*";
      halves = match "(${local})@([^@]*)" text;
      cure = "write it as in \"ada@signi.local\"";
    in
    first [
      (line 254 text)
      (unless (halves != null && stringLength (builtins.head halves) <= 64 && domain (builtins.elemAt halves 2) == null)
        "${quote text} is no e-mail address that git and GPG can carry: ${cure}")
    ];

  word = text: first [
    (line 1000 text)
    (unless (text != "") "is empty: say something here")
    (unless (!startsWith " " text && !endsWith " " text) "${quote text} begins or ends with a space: remove it")
  ];

  personName = text: first [
    (word text)
    (unless (!has [ "<" ">" "(" ")" ] text) "${quote text} holds one of <>(): git and GPG keep them for themselves")
    (unless (match ".*([A-Za-z0-9]|[^ -~]).*" text != null) "${quote text} is no name: write at least one letter")
    (unless (stringLength text <= 200) "${quote text} is too long: at most 200 bytes")
  ];

  isPlain = part: !elem part [ "" "." ".." ];

  absolute = text: first [
    (line 4095 text)
    (unless (startsWith "/" text) "${quote text} is no absolute path: begin it with /")
    (unless (text == "/" || all isPlain (builtins.tail (parts "/" text)))
      "${quote text} is no normal path: write it without `.`, `..`, `//` and a `/` at the end")
  ];

  system = [ "/" "/nix/store" "/var/lib" "/var/tmp" ] ++ map (name: "/${name}") [
    "bin" "boot" "dev" "etc" "home" "lib" "lib32" "lib64" "nix" "proc" "root" "run" "sbin" "sys" "tmp" "usr" "var"
  ];

  # Nothing in them is anybody's own either: made anew at each boot, by the kernel, or by whoever installs the system.
  keptFree = [ "/nix/store" "/nix/var" "/var/empty" "/var/lib/nixos" "/var/lock" "/var/log" "/var/run" ]
    ++ map (name: "/${name}") [
      "bin" "boot" "dev" "etc" "lib" "lib32" "lib64" "proc" "run" "sbin" "sys" "usr"
    ];

  place = text: first [
    (absolute text)
    (unless (!elem text system && !any (one: inside one text) keptFree)
      "${quote text} belongs to the system: name a directory of its own, such as /agents")
    (unless (!has [ ":" ] text) "${quote text} holds a colon, which a home in passwd(5) cannot: leave it out")
  ];

  inside = outer: inner: inner == outer || startsWith "${outer}/" inner;

  owned = [ ".nuketown" ".config/nuketown" ".ssh/id_ed25519.pub" ".ssh/id_ed25519" ".gnupg/private-keys-v1.d" ];

  homePath = text: first [
    (line 4095 text)
    (unless (!elem text [ "" "." "./" ])
      "names the home itself, which begins empty at each boot: name a directory in it")
    (unless (!startsWith "/" text && !startsWith "~" text)
      "${quote text} is not relative to the home: write it without the home and without `~`")
    (unless (!elem ".." (parts "/" text)) "${quote text} leaves the home: write it without `..`")
    (unless (all isPlain (parts "/" text))
      "${quote text} is no normal path: write it without `.`, `//` and a `/` at the end")
    (unless (all (part: stringLength part <= 255) (parts "/" text)) "${quote text} is too long: 255 bytes a component")
  ];

  persistPath = text: first [
    (homePath text)
    (unless (!any (one: inside one text) owned) "${quote text} is what nuketown writes anew at each boot: leave it out")
  ];

  # The pairs of a list of paths of which one is or holds the other.
  overlaps = paths:
    let
      count = builtins.length paths;
      at = builtins.elemAt paths;
      pair = m: n: { outer = at m; inner = at n; };
      # Of two that are the same, the first is the outer one.
      holds = m: n: n != m && inside (at m) (at n) && (at m != at n || m < n);
      under = m: map (pair m) (filter (holds m) (genList (n: n) count));
    in
    concatMap under (genList (m: m) count);

  # The text is not repeated: it may be the secret itself.
  secretPath = text:
    let
      keys = parts "/" text;
      isKey = key: match "[A-Za-z][A-Za-z0-9._-]{0,63}" key != null && !unencrypted key && !elem (lower key) yamlWords;
    in
    first [
      (line 1000 text)
      (unless (!startsWith "/" text)
        ("is the path of a file, which everybody reads where it lies in the Nix store: "
          + "name a key of the SOPS file, as in \"ada/ssh-key\""))
      (unless (builtins.length keys <= 8 && all isKey keys && lower (builtins.head keys) != "sops")
        ("is no path of a key in the SOPS file: write keys joined by `/`, as in \"ada/ssh-key\": "
          + "each begins with a letter, and is no word of YAML's (y, no, on, null, …)"))
    ];

  upperCase = genList (n: substring n 1 "ABCDEFGHIJKLMNOPQRSTUVWXYZ") 26;
  lowerCase = genList (n: substring n 1 "abcdefghijklmnopqrstuvwxyz") 26;
  lower = replaceStrings upperCase lowerCase;

  # In lower case, other characters as hyphens; the name alone where nothing is left of the role.
  promptName = name: role:
    let
      cut = substring 0 32 (builtins.concatStringsSep "-" (filter (one: one != "") (parts "[^a-z0-9]+" (lower role))));
      slug = if endsWith "-" cut then substring 0 31 cut else cut;
    in
    if slug == "" then name else "${name}-${slug}";
in
{
  inherit
    absolute agentName domain email endsWith first has holdsSecret homePath inside line lower matching overlaps
    parts persistPath personName place promptName prose quote secretPath startsWith unless word;
}
