# age for Python. nixpkgs 25.11 does not have it; its source needs a vendored set of crates whose hash takes a build to
# know, so this is the wheel that its authors publish, of the stable ABI and so good for each Python.
{
  lib,
  stdenv,
  autoPatchelfHook,
  buildPythonPackage,
  fetchPypi,
}:

let
  arch = stdenv.hostPlatform.parsed.cpu.name;
  hashes = {
    x86_64 = "sha256-f06wy8K0ruXerJhixHs4lYZt9VVBU5Ua+CLpxYHmhVg=";
    aarch64 = "sha256-+GizYMzT+DYybUK1Mvrj6OuDQKiMygo5wK4Q/OaPbMU=";
  };
in
buildPythonPackage rec {
  pname = "pyrage";
  version = "1.4.0";
  format = "wheel";

  src = fetchPypi {
    inherit pname version format;
    dist = "cp310";
    python = "cp310";
    abi = "abi3";
    platform = "manylinux_2_17_${arch}.manylinux2014_${arch}";
    hash = hashes.${arch} or (throw "nuketown: there is no wheel of pyrage for ${arch}; set pyrage in an overlay");
  };

  nativeBuildInputs = [ autoPatchelfHook ];
  buildInputs = [ stdenv.cc.cc.lib ]; # libgcc_s

  pythonImportsCheck = [ "pyrage" ];

  meta = {
    description = "age encryption";
    license = lib.licenses.mit;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = map (name: "${name}-linux") (builtins.attrNames hashes);
  };
}
