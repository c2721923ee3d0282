"""The ground that `persist` and `identity` both stand on: spec, files, btrfs, mounts, processes, SOPS."""

__version__ = "0.1.0"
