# Cuts files where their content says so. nixpkgs 25.11 does not have it.
{
  lib,
  buildPythonPackage,
  cython,
  fetchPypi,
  setuptools,
  typing-extensions,
}:

buildPythonPackage rec {
  pname = "pyfastcdc";
  version = "0.3.1";
  pyproject = true;

  src = fetchPypi {
    inherit pname version;
    hash = "sha256-TUvMCwekjz8xIhtbhj4axa0n1stQiR9u1+ivL8ZmsJE=";
  };

  # It asks for Cython 3.3 on Python 3.13 for interpreters without a global lock; what it compiles here needs 3.0.
  postPatch = ''
    substituteInPlace pyproject.toml --replace-fail "Cython>=3.3" "Cython>=3"
  '';

  build-system = [
    cython
    setuptools
  ];

  dependencies = [ typing-extensions ];

  # Without it a build whose compilation fails passes, and cuts in plain Python.
  env.PYFASTCDC_REQUIRE_CYTHON = "true";

  pythonImportsCheck = [ "pyfastcdc.cy" ];

  meta = {
    description = "Content-defined chunking by FastCDC";
    license = lib.licenses.mit;
  };
}
