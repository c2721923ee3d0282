"""A kept home as one file, for another machine: the objects of a store that holds one state, one after the other.

The key of that store is new for each file and lies in it as a SOPS file, for those who may open it; everything else is
what docs/formats/store.md says, so reading a file that somebody else made has the bounds of a restore. `wire` is the
file, `packing` writes a home into it, `unpacking` reads one out of it. docs/formats/export.md, docs/decisions/0074.
"""
