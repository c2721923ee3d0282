"""Requests are signed by botocore, on which boto3 stands (SigV4), with a key from a file or from boto3's chain.

Of botocore only the signer is loaded, and the sender of `persist.store.s3.wire`: to make a session and a client of it
takes 0.2 s more. With a key from a file it reads no other file and no variable: not HOME, not AWS_CONFIG_FILE.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from persist.store import NoCredentials
from persist.store.s3.credentials import Access
from town.failure import Failure
from town.terminal import shown

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

_CURE = "put a key into a file of root's, 0400, and name it in town.store_credentials; docs/s3.md shows its form"
# The body is sealed, and Content-MD5 is signed: to hash it once more would cost a fifth of a sync.
_UNHASHED = SimpleNamespace(s3={"payload_signing_enabled": False})


class Signer:
    """Signs as `access` says, for one region. Several threads may use it at once."""

    def __init__(self, access: Access, region: str) -> None:
        """Raises NoCredentials."""
        import logging

        from botocore.auth import S3SigV4Auth

        # At DEBUG it writes what it signs, a session token among it.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        self._signer, self._region = S3SigV4Auth, region
        self._keys: Callable[[], object] = _fixed(access) if access.keys else _by_chain(imds=access.imds)

    def signed(self, method: str, url: str, headers: Mapping[str, str | bytes], body: object) -> "AWSPreparedRequest":
        """The request, as it is sent. Raises BotoCoreError where a temporary key cannot be renewed."""
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method, url, headers, body, stream_output=True)
        request.context["client_config"] = _UNHASHED
        self._signer(self._keys(), "s3", self._region).add_auth(request)
        return request.prepare()


def _fixed(access: Access) -> Callable[[], object]:
    keys = access.keys
    assert keys is not None
    found = SimpleNamespace(access_key=keys.access, secret_key=keys.secret, token=keys.token)
    return lambda: found


def _by_chain(*, imds: bool) -> Callable[[], object]:
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    # No attempt at all: not by the chain's own provider, nor by a profile that names the metadata as its source.
    none = None if imds else {"metadata_service_num_attempts": (None, None, 0, int)}
    try:
        found: Any = Session(session_vars=none).get_credentials()
    except BotoCoreError as error:
        raise NoCredentials(f"boto3's chain of credentials fails: {shown(str(error))}", hint=_CURE) from error
    if found is None:
        raise no_credentials()
    if found.method == "iam-role":
        _warn_of_imds()
    keys: Callable[[], object] = found.get_frozen_credentials  # temporary ones are renewed there
    return keys


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
