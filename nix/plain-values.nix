# The values that a definition comes to, with mkIf, mkMerge, mkForce, mkDefault and mkOrder taken off, at its top. As
# lib's own dischargeProperties, which is not to be used from outside, and overrides besides.
let
  plain =
    found:
    {
      "if" = if found.condition or true then plain found.content else [ ];
      merge = builtins.concatMap plain found.contents;
      override = plain found.content;
      order = plain found.content;
    }
    .${found._type or ""} or [ found ];
in
plain
