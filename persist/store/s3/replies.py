"""What a server's refusal means: each error of S3 becomes the one failure that says what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from persist.store import (
    ClockSkew,
    NoSuchBucket,
    StoreDenied,
    StoreFull,
    StoreRefused,
    StoreUnreachable,
    WrongCredentials,
    WrongRegion,
)
from persist.store.s3.patience import Passing
from town.failure import Failure
from town.store_url import Bucket
from town.terminal import shown

# Amazon S3 API Reference, "Error responses", and what Ceph RGW, MinIO and rclone answer beyond it.
_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}
_SKEW = {"RequestTimeTooSkewed", "RequestExpired"}
_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}
_REGION |= {"IllegalLocationConstraintException", "InvalidRegion"}
_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded"}
_FULL_WORDS = ("no space left", "disk quota exceeded", "insufficient storage")
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "MethodNotAllowed", "NotSignedUp", "UserSuspended"}
_PASSING = {"BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout", "SlowDown"}
_PASSING |= {"ConditionalRequestConflict", "Throttling", "ThrottlingException", "XAmzContentSHA256Mismatch"}
_PASSING_STATUS = {408, 409, 425, 429}


@dataclass(frozen=True, slots=True)
class Reply:
    """The error that a server answered with: HTTP status, S3's code (or the status), its words, and its headers."""

    status: int
    code: str
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """Code and words, as one safe line that is not too long."""
        return shown(
            f"{self.code}: {self.message}"[:300] if self.message else f"{self.code} (HTTP {self.status})"[:300]
        )


class Refused(Exception):
    """A server answered with an error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.said)
        self.reply = reply


def raised(reply: Reply, place: Bucket, file: str = "") -> Failure | Passing:
    """What to raise for an error of the server; Passing for what a later try may cure.

    `file`: where the credentials were read, as it is said to people; empty where no file was.
    """
    if _is_full(reply):
        return Passing(_full(reply, place), most=2)
    if reply.code in _PASSING or reply.status in _PASSING_STATUS or reply.status >= 500:
        return Passing(
            StoreUnreachable(f"the store at {where(place)} answers with errors: {reply.said}", hint="try again later")
        )
    return _lasting(reply, place, file)


def _lasting(reply: Reply, place: Bucket, file: str) -> Failure:
    if reply.code in _BUCKET:
        return NoSuchBucket(
            f"there is no bucket {shown(place.bucket)} at {where(place)}",
            hint="correct town.store, or make the bucket with the tools of whoever runs the store; nuketown makes none",
        )
    if reply.code in _SKEW:
        return _skewed(reply)
    if reply.code in _REGION or 300 <= reply.status < 400:
        return _elsewhere(reply, place)
    if reply.code in _KEY or reply.status == 401:
        return WrongCredentials(
            f"the store at {where(place)} does not accept the key{f' of {file}' if file else ''}: {reply.said}",
            hint="put the right access key and secret into "
            + (f"it ({file})" if file else "the file that town.store_credentials names"),
        )
    if reply.code in _DENIED or reply.status == 403:
        return StoreDenied(
            f"the key may not do that in the bucket {shown(place.bucket)}: {reply.said}",
            hint="allow it s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject there, as docs/s3.md says",
        )
    return StoreRefused(f"the store at {where(place)} refused a request: {reply.said}")


def where(place: Bucket) -> str:
    """The server of a bucket, for messages."""
    return shown(place.endpoint or "Amazon S3")


def _is_full(reply: Reply) -> bool:
    words = reply.message.lower()
    return reply.code in _FULL or reply.status == 507 or any(word in words for word in _FULL_WORDS)


def _full(reply: Reply, place: Bucket) -> Failure:
    return StoreFull(
        f"no space is left behind the store at {where(place)}: {reply.said}",
        hint="give it more room, or remove what is old: persist prune; nothing that was there is lost",
    )


def _skewed(reply: Reply) -> Failure:
    theirs, ours = reply.headers.get("date", "some other time"), datetime.now(UTC)
    return ClockSkew(
        f"the store refuses this machine's clock: it is {ours:%a, %d %b %Y %H:%M:%S} GMT here, {shown(theirs)} there",
        hint="set the clock that is wrong; timedatectl says whether this machine asks a time server",
    )


def _elsewhere(reply: Reply, place: Bucket) -> Failure:
    region = reply.headers.get("x-amz-bucket-region", "")
    cure = f"set region={shown(region)}" if region else "set region=NAME to the region that the bucket was made in"
    return WrongRegion(
        f"the bucket {shown(place.bucket)} is not in the region {shown(place.region or 'us-east-1')}: {reply.said}",
        hint=f"{cure} in town.store",
    )
