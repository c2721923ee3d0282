"""Requests that are made without botocore's client are those that it makes, and answers are read as it reads them."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore import auth
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session
from hypothesis import given, settings
from hypothesis import strategies as st

from persist.store import StoreRefused
from persist.store.pace import Pace
from persist.store.s3 import answers
from persist.store.s3.address import address
from persist.store.s3.answers import Answer
from persist.store.s3.client import Client
from persist.store.s3.credentials import Access, Keys
from persist.store.s3.objects import Objects
from persist.store.s3.patience import PATIENCE, Passing
from persist.store.s3.signing import Signer
from town.failure import Failure
from town.store_url import Bucket

SIGNED = {"authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "content-md5",
          "content-length", "range", "if-match", "if-none-match"}  # fmt: skip
KEYS = Keys("AKIDNUKETOWNTESTS", "the/secret+of-the-tests")
LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
PARTITIONS = json.loads((Path(botocore.__file__).parent / "data/partitions.json").read_text())["partitions"]
REGIONS = [None, *(name for one in PARTITIONS for name in one["regions"])]
ODD_REGIONS = ["aws-global", "s3-external-1", "fips-us-east-1", "us-east-1-fips", "fips-us-gov-west-1", "mars-1", "EU",
               "cn-nowhere-9", "us-gov-nowhere-9", "eu-isoe-new-1", "us-isof-new-2", "eusc-de-new-3"]  # fmt: skip
ENDPOINTS = ["http://127.0.0.1:9000", "https://s3.example.org", "http://[::1]:80", "https://h:443", "http://h:80"]


SESSION = Session()


class Body:
    """A body as botocore's client reads it."""

    def __init__(self, data: bytes) -> None:
        self._file = BytesIO(data)

    def stream(self) -> list[bytes]:
        return [self._file.read()]

    def read(self, amount: int | None = None) -> bytes:
        return self._file.read(amount)

    def close(self) -> None:
        """Nothing to close."""


class Theirs:
    """botocore's whole client for a place; `sent` are its requests."""

    def __init__(self, place: Bucket, keys: Keys = KEYS) -> None:
        self.client = SESSION.create_client(
            "s3",
            aws_access_key_id=keys.access,
            aws_secret_access_key=keys.secret,
            aws_session_token=keys.token,
            region_name=place.region or "us-east-1",
            endpoint_url=place.endpoint,
            config=Config(
                signature_version="s3v4",
                retries={"total_max_attempts": 1, "mode": "standard"},
                s3={"addressing_style": "path" if place.endpoint else "auto", "payload_signing_enabled": False},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                parameter_validation=False,
            ),
        )
        self.sent: list[AWSPreparedRequest] = []
        self.answer: tuple[int, Mapping[str, str], bytes] = (200, {}, LIST)
        self.client.meta.events.register_last("before-parameter-build.s3", self._stay)
        self.client.meta.events.register("before-send.s3", self._send)

    @staticmethod
    def _stay(context: dict[str, Any], **_: object) -> None:
        """It would ask for the region by itself."""
        context.setdefault("s3_redirect", {})["redirected"] = True

    def _send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        self.sent.append(request)
        status, headers, data = self.answer
        return AWSResponse(request.url, status, headers, Body(data))


class Ours:
    """Our objects of a place, whose requests go nowhere; `sent` are those."""

    def __init__(self, place: Bucket, keys: Keys = KEYS, pace: Pace | None = None) -> None:
        client = Client(place, lambda: Access(keys), PATIENCE)
        _, wire = client._ready()
        self.sent: list[AWSPreparedRequest] = []
        wire.send = self._send  # type: ignore[method-assign]
        self.objects = Objects(client, pace)

    def _send(self, request: AWSPreparedRequest, *, streamed: bool = False) -> Answer:
        self.sent.append(request)
        return Answer(200, {"ETag": "x", "Content-Length": "0"}, b"" if streamed else LIST)


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "get_current_datetime", lambda *_, **__: datetime(2026, 11, 21, 12, 0, tzinfo=UTC))
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


def said(request: AWSPreparedRequest) -> tuple[str, str, dict[str, str]]:
    """What a server sees and what is signed: the method, the URL as it stands, and the headers that matter."""
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()
    }
    return request.method, request.url, {name: headers[name] for name in sorted(SIGNED & headers.keys())}


Call = tuple[Callable[[Objects], object], str, dict[str, Any]]


def calls(below: str, key: str, token: str = "") -> list[Call]:
    """Each request that a store makes, and the operation of botocore's client that makes it."""
    at = below + key
    page = {"Prefix": at, "MaxKeys": 7} | ({"ContinuationToken": token} if token else {})
    return [
        (lambda objects: objects.read(key, 5, 10), "get_object", {"Key": at, "Range": "bytes=5-14"}),
        (lambda objects: objects.read(key, 0, None), "get_object", {"Key": at}),
        (lambda objects: objects.read(key, 9, None), "get_object", {"Key": at, "Range": "bytes=9-"}),
        (lambda objects: objects.send(key, b"some"), "put_object", put(at, b"some")),
        (lambda objects: objects.send(key, b"", IfNoneMatch="*"), "put_object", put(at, b"") | {"IfNoneMatch": "*"}),
        (lambda objects: objects.send(key, b"a" * 3_000_000), "put_object", put(at, b"a" * 3_000_000)),
        (lambda objects: objects.send(key, b"b", IfMatch='"x"'), "put_object", put(at, b"b") | {"IfMatch": '"x"'}),
        (lambda objects: objects.remove(key), "delete_object", {"Key": at}),
        (lambda objects: objects.page(key, token, 7), "list_objects_v2", page),
    ]


def put(key: str, data: bytes) -> dict[str, Any]:
    import base64
    import hashlib

    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    return {"Key": key, "Body": data, "ContentLength": len(data), "ContentMD5": md5}


def both(place: Bucket, ours: Ours, theirs: Theirs, key: str, token: str = "") -> int:
    """Make every request both ways and compare them; how many."""
    made = calls(f"{place.prefix}/" if place.prefix else "", key, token)
    for call, operation, params in made:
        with suppress(Failure, Passing):  # an answer that does not fit: the request was made
            call(ours.objects)
        getattr(theirs.client, operation)(Bucket=place.bucket, **params)
        assert said(ours.sent.pop()) == said(theirs.sent.pop())
        assert not ours.sent
    return len(made)


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, None])
@pytest.mark.parametrize("keys", [KEYS, Keys(KEYS.access, KEYS.secret, "a/session+token==")], ids=["key", "token"])
@pytest.mark.parametrize("bucket", ["bucket", "with.dots.in-it", "3ab", "p-abc-s3alias"])
def test_every_request_is_the_one_that_botocores_client_makes(endpoint: str | None, keys: Keys, bucket: str) -> None:
    place = Bucket(bucket, "Some/pre.fix=@+_-", endpoint, "eu-west-1")
    ours, theirs = Ours(place, keys), Theirs(place, keys)
    for key in ("config", "agents/ab-c/commit-0000-f00", "packs/0/" + "a" * 200, ".probe-abc", "a b+c~d@e=f&g?h#i%2Fé"):
        assert both(place, ours, theirs, key, "a/token+with==&things") == 9


@settings(max_examples=40, deadline=None)
@given(key=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30), token=st.text("a/+=& é"))
def test_odd_keys_and_tokens_too(key: str, token: str) -> None:
    both(PLACE, *PAIR, key.strip("/.") or "k", token)


PLACE = Bucket("bucket", "", "http://127.0.0.1:9000")
PAIR = Ours(PLACE), Theirs(PLACE)


@pytest.mark.parametrize("bucket", ["bucket", "with.dots"])
def test_in_every_region_of_amazon_the_host_and_the_signed_region_are_theirs(bucket: str) -> None:
    for region in [*REGIONS, *ODD_REGIONS]:
        place = Bucket(bucket, "", None, region)
        ours, theirs = Ours(place), Theirs(place)
        ours.objects.remove("k")
        theirs.client.delete_object(Bucket=bucket, Key="k")
        assert said(ours.sent[0]) == said(theirs.sent[0]), region


@pytest.mark.parametrize("region", [None, *ODD_REGIONS])
def test_at_an_endpoint_the_signed_region_is_theirs(region: str | None) -> None:
    place = Bucket("bucket", "", ENDPOINTS[0], region)
    ours, theirs = Ours(place), Theirs(place)
    ours.objects.remove("k")
    theirs.client.delete_object(Bucket="bucket", Key="k")
    assert said(ours.sent[0]) == said(theirs.sent[0])


@pytest.mark.parametrize("name", ["b--use1-az4--x-s3", "b--use1-az4--xa-s3", "ap--op-s3"])
def test_a_name_of_amazons_that_is_no_plain_bucket_is_refused(name: str) -> None:
    with pytest.raises(StoreRefused, match="no plain bucket"):
        address(Bucket(name))
    assert address(Bucket(name, "", "http://h")).url == f"http://h/{name}", "at another server it is a name like others"


def test_a_key_that_is_renewed_signs_with_what_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    signed = Signer(Access(None), "us-east-1").signed("GET", "http://h/b", {}, None)
    assert "Credential=ENVIRONMENT/20261121/us-east-1/s3/aws4_request" in str(signed.headers["Authorization"])


def test_a_large_body_goes_in_pieces_without_a_copy_and_waits_for_the_servers_word() -> None:
    ours, data = Ours(PLACE), bytes(3_000_000)
    ours.objects.send("k", data)
    sent = ours.sent[0]
    assert sent.headers["Expect"] == b"100-continue"
    pieces = list(iter(lambda: sent.body.read(1), b""))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 128 << 10
    assert all(piece.obj is data for piece in pieces)
    ours.objects.send("k", b"small")
    assert ours.sent[1].body == b"small"
    assert "Expect" not in ours.sent[1].headers


# Answers. ------------------------------------------------------------------------------------------------------------

NS = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
ONE = "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>&quot;e&quot;</ETag><Size>{}</Size></Contents>"
LISTINGS = [
    f"<ListBucketResult{NS}><Prefix>p/</Prefix><IsTruncated>true</IsTruncated><NextContinuationToken>t+/=</NextContinua"
    f"tionToken>{ONE.format('p/a', '2026-11-21T10:11:12.345Z', 7)}{ONE.format('p/b', '2026-11-21T10:11:12Z', 0)}"
    "</ListBucketResult>",
    f"<ListBucketResult><EncodingType>url</EncodingType><Prefix>p%2B+%2F</Prefix><IsTruncated>false</IsTruncated>"
    f"{ONE.format('a+b%2Bc%C3%A9%2F', '2026-11-21T10:11:12.345678901Z', 12)}</ListBucketResult>",
    f"<ListBucketResult><Prefix/><IsTruncated>false</IsTruncated>"
    f"{ONE.format('&lt;x&gt;&amp;', '2026-11-21T12:11:12+02:00', 3)}</ListBucketResult>",
    "<?xml version='1.0' encoding='UTF-8'?>\n<ListBucketResult>\n  <IsTruncated>false</IsTruncated>\n"
    "<CommonPrefixes><Prefix>z/</Prefix></CommonPrefixes></ListBucketResult>",
    "<Other/>",
]


@pytest.mark.parametrize("text", LISTINGS)
def test_a_listing_is_read_as_botocores_client_reads_it(text: str) -> None:
    theirs = Theirs(PLACE)
    theirs.answer = (200, {}, text.encode())
    want = theirs.client.list_objects_v2(Bucket="bucket", Prefix="p/")
    found = answers.listing(text.encode())
    assert (found.prefix, found.truncated) == (want.get("Prefix"), want.get("IsTruncated"))
    assert found.token == want.get("NextContinuationToken", "")
    assert [(one.key, one.size, round(one.modified or 0, 3)) for one in found.keys] == [
        (one["Key"], one["Size"], round(one["LastModified"].timestamp(), 3)) for one in want.get("Contents", ())
    ]


@pytest.mark.parametrize("text", ["", "no xml", "<a>", "<a></b>", "\x00", "<a>&unknown;</a>"])
def test_what_is_no_xml_is_no_listing(text: str) -> None:
    with pytest.raises(answers.NoAnswerError):
        answers.listing(text.encode())


@pytest.mark.parametrize(
    "one",
    [ONE.format("a", "yesterday", 1), ONE.format("a", "2026-11-21T10:11:12Z", "-1"), ONE.format("a", "", "1e3"),
     "<Contents><Key>a</Key></Contents>", ONE.format("a", "2026-11-21T10:11:12Z", "9" * 5000)],
)  # fmt: skip
def test_a_key_of_a_listing_that_says_no_size_or_time_is_none(one: str) -> None:
    text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{one}</ListBucketResult>"
    (found,) = answers.listing(text.encode()).keys
    assert None in (found.size, found.modified)


ERRORS = [
    (404, "<Error><Code>NoSuchKey</Code><Message>no &lt;such&gt;</Message><RequestId>x</RequestId></Error>"),
    (301, "<Error><Code>PermanentRedirect</Code><Message>m</Message><Endpoint>e</Endpoint></Error>"),
    (400, "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidInput</Code><Message>w</Message></Error><RequestId>r"
          "</RequestId></ErrorResponse>"),
    (403, "<Error/>"),
    (403, "<Error><Code/><Message/></Error>"),
    (503, ""),
    (500, "<html><body>broken</body></html>"),
    (418, "short and stout"),
    (416, ""),
    (400, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-9</Region></Error>"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "text"), ERRORS)
def test_an_error_is_read_as_botocores_client_reads_it(status: int, text: str) -> None:
    theirs, headers = Theirs(PLACE), {"X-Some": "Header", "Date": "today"}
    theirs.answer = (status, headers, text.encode())
    with pytest.raises(ClientError) as caught:
        theirs.client.delete_object(Bucket="bucket", Key="k")
    want, found = caught.value.response["Error"], answers.error(Answer(status, headers, text.encode()))
    assert (found.code, found.message) == (want.get("Code") or str(status), want.get("Message") or "")
    assert found.status == status
    assert found.headers["x-some"] == "Header"
    assert found.headers.get("x-amz-bucket-region") == want.get("Region")
