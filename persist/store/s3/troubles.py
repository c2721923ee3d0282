"""Why no answer came: what went wrong on the way to a server becomes the one failure that says what to do about it."""

import socket
import ssl
from collections.abc import Iterator

from persist.store import ClockSkew, StoreUnreachable, TlsFailed
from persist.store.s3.patience import Passing, Patience
from persist.store.s3.replies import where
from town.failure import Failure
from town.store_url import Bucket
from town.terminal import shown

_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID (openssl-verification-options(1))
_NETWORK = "see that this machine has a network, and that endpoint in town.store is right"


def trouble(error: Exception, place: Bucket, patience: Patience) -> Failure | Passing:
    """What to raise for an error of the network; Passing for what a later try may cure."""
    from botocore import exceptions

    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return _certificate(one, place)
        if isinstance(one, ssl.SSLError) and not isinstance(one, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return _tls(one, place)
        if isinstance(one, socket.gaierror):
            return _unreachable(f"its name is not known: {one.strerror}", place)
    match error:
        case exceptions.ProxyConnectionError():
            what = "the proxy that $HTTP_PROXY or $HTTPS_PROXY names does not lead there"
            return Passing(StoreUnreachable(f"the store at {where(place)} was not reached: {what}", hint=_NETWORK))
        case exceptions.ConnectTimeoutError():
            return _unreachable(f"no connection within {patience.connect:g} s", place)
        case exceptions.ReadTimeoutError():
            return _unreachable(f"no answer within {patience.read:g} s", place)
        case exceptions.EndpointConnectionError():
            return _unreachable(_last_words(error), place)
    return _unreachable(f"the connection broke: {_last_words(error)}", place)


def _unreachable(why: str, place: Bucket) -> Passing:
    return Passing(StoreUnreachable(f"the store at {where(place)} was not reached: {why}", hint=_NETWORK))


def _certificate(error: ssl.SSLCertVerificationError, place: Bucket) -> Failure:
    why = shown(error.verify_message)
    if error.verify_code == _NOT_YET_VALID:
        return ClockSkew(
            f"the certificate of {where(place)} is not valid yet by this machine's clock",
            hint="set the clock; timedatectl says whether this machine asks a time server",
        )
    return TlsFailed(
        f"{where(place)} did not prove that it is the store: {why}",
        hint="see that endpoint names it as its certificate does; a certificate authority of your own is installed "
        "on the system (update-ca-certificates) or named by AWS_CA_BUNDLE",
    )


def _tls(error: ssl.SSLError, place: Bucket) -> Failure:
    return TlsFailed(
        f"no TLS with {where(place)}: {shown(error.reason or 'it broke off')}",
        hint="see that the port is the one for https; a server without TLS is http:// in endpoint",
    )


def _last_words(error: Exception) -> str:
    """What the innermost error says; libraries wrap it in addresses of objects."""
    said = [str(one.strerror) for one in _chain(error) if isinstance(one, OSError) and one.strerror]
    return shown(said[-1] if said else "it was closed before the answer was whole")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it wraps: by cause, by context, in its arguments and as botocore keeps it."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        wrapped = [*one.args, getattr(one, "reason", None), getattr(one, "original_error", None)]
        wrapped.append(getattr(one, "kwargs", {}).get("error"))
        pending += [one.__cause__, one.__context__, *(it for it in wrapped if isinstance(it, BaseException))]
