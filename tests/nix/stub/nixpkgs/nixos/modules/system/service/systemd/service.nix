# What home-manager takes from nixpkgs by path. No service of that kind is met here.
{ }
