"""Sessions of botocore, on which boto3 stands (boto3's own session adds 60 ms and nothing that is needed here).

They read no file and no variable but what `Access` says: not HOME, not AWS_CONFIG_FILE, not AWS_ENDPOINT_URL.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from persist.store import NoCredentials
from persist.store.s3.credentials import Access
from town.failure import Failure
from town.terminal import shown

if TYPE_CHECKING:
    from botocore.loaders import Loader
    from botocore.session import Session

_CURE = "put a key into a file of root's, 0400, and name it in town.store_credentials; docs/s3.md shows its form"


def session_of(access: Access) -> "Session":
    """A session that signs as `access` says. Raises NoCredentials."""
    import logging

    from botocore.session import Session

    # At DEBUG it writes what it signs, a session token among it.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    alone: dict[str, tuple[None, None, Any, Any]] = {
        name: (None, None, default, made) for name, (_, _, default, made) in Session.SESSION_VARIABLES.items()
    }
    alone["config_file"] = alone["credentials_file"] = (None, None, "/dev/null", None)
    session = Session(session_vars=alone)
    session.register_component("data_loader", _loader())
    if access.keys is not None:
        session.set_credentials(access.keys.access, access.keys.secret, access.keys.token)
    else:
        session.register_component("credential_provider", _Fixed(_by_chain(imds=access.imds)))
    return session


@cache
def _loader() -> "Loader":
    """The descriptions of the services that came with botocore; it would also read some below HOME."""
    from botocore.loaders import Loader

    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    # Asked whether it knows S3, it would look into the 400 directories of all services, for 30 ms.
    loader.list_available_services = lambda *_, **__: ["s3"]
    return loader


class _Fixed:
    """A chain of credentials that ends where it begins."""

    def __init__(self, credentials: object) -> None:
        self._credentials = credentials

    def load_credentials(self) -> object:
        """What it was made with; botocore renews temporary ones in place."""
        return self._credentials


def _by_chain(*, imds: bool) -> object:
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    # No attempt at all: not by the chain's own provider, nor by a profile that names the metadata as its source.
    none = None if imds else {"metadata_service_num_attempts": (None, None, 0, int)}
    try:
        found = Session(session_vars=none).get_credentials()
    except BotoCoreError as error:
        raise NoCredentials(f"boto3's chain of credentials fails: {shown(str(error))}", hint=_CURE) from error
    if found is None:
        raise no_credentials()
    if found.method == "iam-role":
        _warn_of_imds()
    return found


def no_credentials() -> Failure:
    """That nothing says how to sign."""
    return NoCredentials("nothing says with which key the store is to be asked", hint=_CURE)


def _warn_of_imds() -> None:
    from town import cli

    cli.warn(
        "persist",
        "the store's key comes from the instance's metadata, which every user of this machine can read, agents too",
        "leave imds=1 out of town.store and name a file of root's in town.store_credentials",
    )
