# What `nix run .#identity` asks of a configuration (nix eval --apply): one line each of the directory in the checkout
# that holds identities/ (empty: that of the flake), the SOPS file and the recovery file as the spec names them; then
# the spec.
#
# The spec of a system names its SOPS file in the store. Here it stands for the file in the checkout: the path below the
# flake's own directory in the store is the same path below the checkout.
nuketown:
let
  inherit (builtins) head match replaceStrings stringLength substring toJSON unsafeDiscardStringContext;

  plain = path: unsafeDiscardStringContext (toString path);

  isNormal = path: match "(.*/)?\\.{0,2}(/.*)?" path == null;

  # "secrets/agents.yaml" of /nix/store/…-source/secrets/agents.yaml; null for what is no file of a flake. A store
  # that lies elsewhere has its own directory in front.
  within =
    path:
    let
      found = match ".*/nix/store/[^/]+/(.+)" (plain path);
    in
    if found == null then
      null
    else if !isNormal (head found) then
      throw ''
        nuketown: ${plain path} leads to another place than it names: write it without `.`, `..`, `//` and a `/` at the
        end, as ./secrets/agents.yaml
      ''
    else
      head found;

  # "hosts/one" of "hosts/one/identities"; "." at the top.
  above =
    path:
    let
      found = match "(.*)/[^/]*" path;
    in
    if found == null then "." else head found;

  below =
    directory: path:
    let
      start = "${directory}/";
      length = stringLength start;
    in
    if directory == "." then
      path
    else if substring 0 length path == start then
      substring length (-1) path
    else
      throw ''
        nuketown.sopsFile lies in ${path} and nuketown.identities in ${directory}: both must lie in one directory of the
        flake, as secrets/agents.yaml and identities/ do
      '';

  identities =
    let
      found = within nuketown.identities;
    in
    if nuketown.identities == null then
      null
    else if found == null || match "(.*/)?identities" found == null then
      throw "nuketown.identities is ${plain nuketown.identities}: name a directory of the flake, as ./identities"
    else
      found;

  secrets = within nuketown.sopsFile;

  out =
    if identities != null then
      above identities
    else if nuketown.sopsFile == null || secrets == null then
      "" # where the flake is
    else if match ".*/.*" secrets == null then
      throw ''
        nuketown.sopsFile is ./${secrets}, and identities/ is looked for beside its directory: put it into one, as
        ./secrets/agents.yaml, or say where the public keys are: nuketown.identities = ./identities
      ''
    else
      above (above secrets);

  oneLine =
    path:
    if replaceStrings [ "\n" ] [ "" ] path == path then path else throw "nuketown: ${toJSON path} holds a line break";

  inStore = match ".*/nix/store/.*" (plain nuketown.sopsFile) != null;
  sopsFile =
    if nuketown.sopsFile == null || !inStore then
      null # as the spec has it
    else if secrets == null then
      throw ''
        nuketown.sopsFile is ${plain nuketown.sopsFile}, and which file of the flake that was cannot be told: write it
        as a path, as sopsFile = ./secrets/agents.yaml
      ''
    else
      below out secrets;

  inherit (nuketown.build) town townText;
  said = plain (town.town.sops_file or null);
  line = value: "sops_file = ${toJSON value}";
  spec = if sopsFile == null then townText else replaceStrings [ (line said) ] [ (line sopsFile) ] townText;
  named =
    if sopsFile != null then
      sopsFile
    else if said == "" then
      "secrets/agents.yaml" # where the spec has it by default
    else
      said;
in
if !(nuketown ? build.townText) then
  throw "nuketown is not enabled in this configuration: nuketown.enable = true"
else if sopsFile != null && spec == townText then
  throw "nuketown: the spec does not name its SOPS file as it was expected to: ${said}"
else
  ''
    ${oneLine out}
    ${oneLine named}
    ${oneLine nuketown.recoveryFile}
    ${unsafeDiscardStringContext spec}''
