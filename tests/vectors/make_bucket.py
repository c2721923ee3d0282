"""Writes tests/vectors/bucket/: one file, one reason each. `PYTHONPATH=. python tests/vectors/make_bucket.py`, by hand.

It shares no code with the package: it is the format's text (docs/formats/store.md) once more. What is random in the
format comes here from SHA-256 of a label, so a second run gives the same files; but where zstd or blake3 write other
bytes for the same content, and for `bad-keyfile-*` and `good-keyfile-*`, which SOPS and age seal with their own
randomness: those are written only where they are missing.
"""

from pathlib import Path

from tests.vectors import bucketbase, bucketcommits, bucketentries, bucketpacks

HERE = bucketbase.HERE


def main(into: Path) -> None:
    """Write all of them into a directory."""
    bucketbase.HERE = into
    into.mkdir(exist_ok=True)
    for make in (
        bucketpacks.packs,
        bucketcommits.commits,
        bucketcommits.leases,
        bucketcommits.tombs,
        bucketentries.entries,
        bucketentries.names,
        bucketentries.keys,
        bucketentries.texts,
        bucketentries.key_files,
    ):
        make()


if __name__ == "__main__":
    main(HERE)
