"""A SOPS file that was not there before."""

import secrets
from collections.abc import Mapping as Map
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path as Folder
from typing import Any

from town.sops import layout, sealing, sharing, writing
from town.sops.rules import Rule
from town.sops.values import KEY_BYTES, Sealer

# The release of sops whose files these equal: the `version` of a new file.
VERSION = "3.13.2"


def create(
    tree: Map[str, Any],
    recipients: Sequence[str],
    *,
    now: datetime,
    gnupg_home: Folder | None = None,
    name: str = "the new file",
    groups: Sequence[Sequence[str]] | None = None,
    threshold: int | None = None,
    rule: Rule | None = None,
    mac_only_encrypted: bool = False,
) -> bytes:
    """A new file that holds `tree` (dicts, lists, str, int, float, bool, None, scalars.Time) for these recipients.

    `name` is for messages; with one that ends in .json it is JSON. With `groups` in the place of `recipients` each
    group has a share of the data key, and `threshold` of them (all) open the file. What `rule` leaves in clear stays
    so: by default values below a key that ends in `_unencrypted`, as with sops; `mac_only_encrypted` keeps them out of
    the seal. `now` has a time zone. Public OpenPGP keys come from `gnupg_home`, else from the caller's keyring. Raises
    BadSopsFile, BadRecipient.
    """
    who, rule = sharing.among([recipients] if groups is None else groups, threshold), rule or Rule()
    data_key = secrets.token_bytes(KEY_BYTES)
    sealer, modified = Sealer(data_key), sealing.rfc3339(now)
    block: dict[str, Any] = {
        **sharing.block(data_key, who, modified, gnupg_home),
        "lastmodified": modified,
        "mac": writing.Raw("unsealed"),
        **({"mac_only_encrypted": writing.Raw("true")} if mac_only_encrypted else {}),
        rule.name: writing.word(rule.argument),
        "version": writing.Raw(VERSION),
    }
    form = layout.of_name(name)
    text = form.new(sealing.sealed(tree, rule, sealer) | {"sops": dict(sorted(block.items()))})
    return sealing.finished(form.tidied(text, name), sealing.as_read(tree), sealer, now=now, name=name)
