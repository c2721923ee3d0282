# Which services of PAM let an agent by whose account is not open (docs/boot.md): `import ./pam.nix { inherit lib; }
# config.security.pam.services` lists their names, those whose file somebody wrote `byHand` and those `byRules`.
{ lib }:

services:

let
  inherit (builtins) head match tail;

  # The account stack, each line as its control and the rest. PAM reads types and controls in any case, and joins lines
  # at a backslash. NixOS makes the text of a service of its rules; the stub of a test has none.
  lines = service: lib.filter (line: line != null) (
    map stacked (lib.splitString "\n" (lib.replaceStrings [ "\\\n" "\t" ] [ " " " " ] service.text))
  );
  stacked = line:
    let
      found = match " *-?account +([a-z]+|\\[[^]]*]) +(.*)" (lib.toLower line);
    in
    if found == null then null else { control = head found; rest = head (tail found); };
  ruled = service: map
    (rule: { inherit (rule) control; rest = lib.concatStringsSep " " ([ "${rule.modulePath}" ] ++ rule.args); })
    (lib.sort (a: b: a.order < b.order) (
      lib.filter (rule: rule.enable or true) (lib.attrValues service.rules.account)
    ));
  hasText = service: service.text or null != null;
  stack = service: if hasText service then lines service else ruled service;

  asks = file: line: lib.hasInfix "file=${file}" line.rest;
  isFirst = line: asks "/etc/nuketown/agents" line && line.control == "[auth_err=ignore default=1]";
  isSecond = line: asks "/run/nuketown/open" line && lib.elem line.control [ "requisite" "required" ];
  isDeny = line: lib.hasInfix "pam_deny.so" line.rest && lib.elem line.control [ "requisite" "required" ];
  isInclude = line: lib.elem line.control [ "include" "substack" ];
  # What cannot end the stack with a yes, nor jump over what follows.
  goesOn = line: lib.elem line.control [ "required" "requisite" "optional" ];

  # Whether whoever is let in was asked. An include is taken for one that asks: it is another service's stack.
  isClosed = stack:
    stack != [ ] && (
      let
        line = head stack;
        rest = tail stack;
      in
      isSecond line || isDeny line || isInclude line
      || (if isFirst line then rest != [ ] && isSecond (head rest) else goesOn line && isClosed rest)
    );

  # A greeter's own account is no agent's. Where no line is about accounts, PAM asks the service `other`.
  isOpen = name: service:
    service.enable or true && stack service != [ ] && !isClosed (stack service)
    && !(lib.hasSuffix "-greeter" name || name == "gdm-launch-environment");
  open = lib.filterAttrs isOpen services;

  # The text that NixOS makes of the rules has ours, unless they are turned off.
  ours = service: map (name: service.rules.account.${name}.enable or true) [ "nuketown-agent" "nuketown-open" ];
  isMade = service: !hasText service || lib.elem false (ours service)
    || lib.any (line: asks "/etc/nuketown/agents" line || asks "/run/nuketown/open" line) (lines service);
in
{
  byHand = lib.attrNames (lib.filterAttrs (_: service: !isMade service) open);
  byRules = lib.attrNames (lib.filterAttrs (_: isMade) open);
}
