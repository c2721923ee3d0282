"""The store in a bucket: what it asks servers, what it trusts, and the one failure that each trouble becomes."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from persist import store as stores
from persist.store import (
    ClockSkew,
    NoSuchBucket,
    NotAStore,
    StoreDenied,
    StoreFull,
    StoreMissing,
    StoreRefused,
    StoreUnreachable,
    TlsFailed,
    WrongCredentials,
    WrongRegion,
    limited,
)
from persist.store.s3 import S3Store, answers, conditions
from persist.store.s3.conditions import Conditions
from persist.store.s3.credentials import Access, Keys
from tests.store.faults import Fault, Proxy, Request, Status, in_turn
from tests.store.servers import KEYS, QUICK, Server, free_port, rclone_server
from town import kernel
from town.failure import Failure
from town.store_url import Bucket


@contextmanager
def through(server: Server, place: Bucket) -> Iterator[tuple[Proxy, S3Store]]:
    """A store that is reached by way of a proxy."""
    with Proxy(server.endpoint) as proxy:
        patience = replace(QUICK, total=0.2)
        store = server.store(place._replace(endpoint=proxy.endpoint), patience=patience)
        try:
            yield proxy, store
        finally:
            store.close()


def conditional(request: Request) -> bool:
    return any(name.lower() in ("if-none-match", "if-match") for name, _ in request.headers)


def header(request: Request, name: str) -> str:
    return next((value for one, value in request.headers if one.lower() == name), "")


# What a server answers, and what that is for who runs persist. ------------------------------------------------------

ANSWERS = [
    (Status(403, "InvalidAccessKeyId"), WrongCredentials, "store_credentials", 1),
    (Status(403, "SignatureDoesNotMatch"), WrongCredentials, "store_credentials", 1),
    (Status(400, "ExpiredToken"), WrongCredentials, "store_credentials", 1),
    (Status(401, "Unauthorized"), WrongCredentials, "store_credentials", 1),
    (Status(404, "NoSuchBucket"), NoSuchBucket, "nuketown makes none", 1),
    (Status(403, "AccessDenied"), StoreDenied, "s3:PutObject", 1),
    (Status(403, "RequestTimeTooSkewed"), ClockSkew, "timedatectl", 75),
    (Status(400, "AuthorizationHeaderMalformed", headers=(("x-amz-bucket-region", "eu-west-9"),)), WrongRegion,
     "region=eu-west-9", 78),
    (Status(301, "PermanentRedirect", headers=(("x-amz-bucket-region", "eu-west-9"),)), WrongRegion,
     "region=eu-west-9", 78),
    (Status(307, "TemporaryRedirect", headers=(("Location", "http://127.0.0.1:1/"),)), WrongRegion, "region=NAME", 78),
    (Status(507, "InsufficientStorage"), StoreFull, "room", 1),
    (Status(403, "QuotaExceeded"), StoreFull, "room", 1),
    (Status(500, "InternalError", "write /x: no space left on device"), StoreFull, "room", 1),
    (Status(418, "Teapot", "\x1b[2J" + "x" * 1000), StoreRefused, "", 1),
    (Status(503, "SlowDown"), StoreUnreachable, "later", 75),
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "kind", "cure", "status"), ANSWERS, ids=[f"{one[0].status} {one[0].code}" for one in ANSWERS]
)
def test_each_refusal_is_one_failure_with_its_cure(
    moto: Server, answer: Status, kind: type[Failure], cure: str, status: int
) -> None:
    with through(moto, moto.bucket()) as (proxy, store):
        proxy.script = lambda _: answer
        for call in (
            lambda: store.get("a"), lambda: store.put("a", b"x"), lambda: store.delete("a"), lambda: store.size("a"),
            lambda: list(store.list("")),
        ):  # fmt: skip
            before = len(proxy.seen)
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind
            assert cure in caught.value.hint
            assert caught.value.status == status
            assert caught.value.what.isprintable()
            assert len(caught.value.what) < 600
            if kind not in (StoreUnreachable, StoreFull):
                assert len(proxy.seen) == before + 1, "what lasts is not tried again, nor elsewhere"


def test_a_wrong_key_and_a_wrong_secret_are_named_by_a_real_server(rclone: Server) -> None:
    place = rclone.bucket()
    for keys in (Keys("AKIDOTHER", KEYS.secret), Keys(KEYS.access, "wrong")):
        store = S3Store(place, lambda keys=keys: Access(keys), patience=QUICK)  # type: ignore[misc]
        with pytest.raises(WrongCredentials):
            store.get("a")
        with pytest.raises(WrongCredentials):
            store.put_if_absent("a", b"x")
        store.close()


def test_a_clock_that_is_wrong_is_named_by_a_real_server(rclone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from botocore import auth

    real = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", lambda *a, **k: real(*a, **k) + timedelta(hours=2))
    store = rclone.store(Bucket("any", "", rclone.endpoint))
    with pytest.raises(ClockSkew, match=r"GMT here, .* GMT there"):
        store.get("a")
    store.close()


def test_a_missing_bucket_is_never_an_empty_store(server_name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(server_name)
    store = server.store(Bucket("none-of-that-name", "", server.endpoint, "us-east-1"))
    for call in (
        lambda: list(store.list("")), lambda: store.get("config"), lambda: store.size("config"),
        lambda: store.put("a", b""), lambda: store.put_if_absent("a", b""), lambda: store.now() and store.delete("a"),
    ):  # fmt: skip
        with pytest.raises(StoreMissing, match="there is no bucket none-of-that-name"):
            call()
    store.close()


@pytest.fixture(params=["moto", "rclone"])
def server_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.root
def test_a_full_disk_behind_a_real_server_is_named_and_loses_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    kernel.mount("tmpfs", str(data), "tmpfs", kernel.MOUNT_NOSUID, "size=2m,mode=0755")
    try:
        with rclone_server(data, tmp_path / "log") as server:
            store = server.store(server.bucket())
            store.put("packs/a", b"x" * 1_000_000)
            with pytest.raises(StoreFull, match="no space is left"):
                store.put("packs/b", os.urandom(3_000_000))
            assert [found.key for found in store.list("")] == ["packs/a"]
            assert store.get("packs/a") == b"x" * 1_000_000
            store.close()
    finally:
        kernel.umount(str(data), kernel.MNT_DETACH)


def test_a_server_that_is_started_again_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    port = free_port()
    with rclone_server(tmp_path / "data", tmp_path / "log", port=port) as server:
        store = server.store(server.bucket())
        store.put("a", b"x")
    with pytest.raises(StoreUnreachable):
        store.get("a")
    with rclone_server(tmp_path / "data", tmp_path / "log", port=port):
        assert store.get("a") == b"x"
    store.close()


# The network. --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "what"), [("http://127.0.0.1:1", "refused"), ("http://nowhere.invalid:9", "its name is not known")]
)
def test_where_nothing_answers_it_is_said_soon(endpoint: str, what: str) -> None:
    store = S3Store(Bucket("bucket", "", endpoint), lambda: Access(KEYS), patience=replace(QUICK, total=60))
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=what) as caught:
        store.get("a")
    assert time.monotonic() - began < 10
    assert (store.requests, "endpoint" in caught.value.hint) == (QUICK.tries, True)
    store.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with server certificates for 127.0.0.1, signed by themselves: `good`, `early`, `late`."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made, now = tmp_path_factory.mktemp("tls"), datetime.now(UTC)
    for name, start, days in (("good", -1, 9), ("early", 5, 9), ("late", -9, 4)):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now + timedelta(days=start))
            .not_valid_after(now + timedelta(days=start + days))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (made / name).write_bytes(private + certificate.public_bytes(pem))
    return made


@contextmanager
def tls(certificate: Path, script: Status) -> Iterator[str]:
    """The endpoint of a server with TLS that answers everything by `script`."""
    import ssl

    with Proxy("http://127.0.0.1:1", lambda _: script) as proxy:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        plain = proxy._server.socket
        proxy._server.socket = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        yield proxy.endpoint.replace("http:", "https:")


@pytest.mark.parametrize(
    ("name", "trusted", "kind", "what"),
    [
        ("good", True, StoreDenied, "AccessDenied"),  # TLS is fine, and the answer is heard
        ("good", False, TlsFailed, "self-signed certificate"),
        ("late", True, TlsFailed, "expired"),
        ("early", True, ClockSkew, "not valid yet"),
    ],
)
def test_a_certificate_is_checked_and_what_is_wrong_with_it_is_said(
    certificates: Path, name: str, trusted: bool, kind: type[Failure], what: str
) -> None:
    with tls(certificates / name, Status(403, "AccessDenied")) as endpoint:
        bundle = str(certificates / name) if trusted else None
        store = S3Store(Bucket("bucket", "", endpoint), lambda: Access(KEYS, bundle=bundle), patience=QUICK)
        with pytest.raises(kind, match=what) as caught:
            store.get("a")
        assert type(caught.value) is kind
        store.close()


def test_a_server_without_tls_behind_https_is_said(moto: Server) -> None:
    endpoint = moto.endpoint.replace("http:", "https:")
    store = S3Store(Bucket("bucket", "", endpoint), lambda: Access(KEYS), patience=QUICK)
    with pytest.raises(TlsFailed, match="no TLS with") as caught:
        store.get("a")
    assert "http://" in caught.value.hint
    store.close()


# Conditional writes. -------------------------------------------------------------------------------------------------


def test_a_probe_finds_what_a_server_honours_and_leaves_nothing(moto: Server, rclone: Server) -> None:
    for server, found in ((moto, Conditions(True, "quoted")), (rclone, Conditions(False, ""))):
        place = server.bucket()
        store = server.store(place)
        assert store.conditions() == found
        assert answers.listing(store._client.ask("GET", query={"list-type": "2"}).data).keys == []
        store.close()


def test_a_probe_is_made_once_and_remembered_by_root_alone(moto: Server, tmp_path: Path) -> None:
    place = moto.bucket()
    for expected in (7, 2):  # the probe's five, the object, and the one that is taken
        store = moto.store(place, state=tmp_path / "store")
        key = f"k{expected}"
        assert store.put_if_absent(key, b"x")
        assert not store.put_if_absent(key, b"x")
        assert store.requests == expected
        store.close()
    note = tmp_path / "store/conditions.json"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "spoil",
    [
        lambda note: note.chmod(0o640),
        lambda note: note.write_text("{"),
        lambda note: note.write_text(note.read_text().replace("quoted", "always")),
        lambda note: note.write_text(json.dumps(json.loads(note.read_text()) | {"time": time.time() - 40 * 86400})),
        lambda note: note.write_text(json.dumps(json.loads(note.read_text()) | {"time": time.time() + 86400})),
        lambda note: note.write_text(json.dumps(json.loads(note.read_text()) | {"place": "other"})),
        lambda note: (note.unlink(), note.symlink_to("/dev/null")),
    ],
    ids=["readable", "cut", "odd", "old", "from the future", "of another", "a link"],
)
def test_a_note_of_a_probe_that_is_not_roots_own_and_fresh_is_not_believed(spoil: object, tmp_path: Path) -> None:
    place = Bucket("bucket", "", "http://a")
    conditions.remember(tmp_path, place, Conditions(True, "quoted"))
    assert conditions.remembered(tmp_path, place) == Conditions(True, "quoted")
    assert conditions.remembered(tmp_path, place._replace(endpoint="http://b")) is None
    spoil(tmp_path / "conditions.json")  # type: ignore[operator]
    assert conditions.remembered(tmp_path, place) is None


def test_a_server_that_wants_its_etag_without_quotes_gets_it_so(moto: Server) -> None:
    """As Ceph RGW answers: 412 to every quoted If-Match, and to a bare one that differs."""
    place = moto.bucket()

    def ceph(request: Request) -> Fault | None:
        asked = header(request, "if-match")
        return Status(412, "PreconditionFailed") if asked.startswith('"') or asked == "0" * 32 else None

    with through(moto, place) as (proxy, store):
        proxy.script = ceph
        assert store.conditions() == Conditions(True, "bare")
        store.put("lease", b"one")
        assert store.replace_if_unchanged("lease", b"one", b"two")
        assert store.get("lease") == b"two"
        sent = [header(one, "if-match") for one in proxy.seen if one.key.endswith("lease") and one.method == "PUT"]
        assert len(sent[-1]) == 32


@pytest.mark.parametrize("answer", [Status(412, "PreconditionFailed"), Status(501, "NotImplemented")])
def test_a_server_that_stumbles_over_conditions_is_used_without(moto: Server, answer: Status) -> None:
    """Some answer 412 to every conditional PUT, some 501: objects are put all the same."""
    with through(moto, moto.bucket()) as (proxy, store):
        proxy.script = lambda request: answer if conditional(request) else None
        store.put("a", b"x")
        store.put("b", b"y")
        assert store.conditions() == Conditions(False, "")
        assert store.put_if_absent("c", b"z")
        assert not store.put_if_absent("c", b"w")
        assert store.replace_if_unchanged("c", b"z", b"w")
        assert [store.get(key) for key in "abc"] == [b"x", b"y", b"w"]


def test_a_server_that_honours_no_condition_any_more_is_used_without(moto: Server, tmp_path: Path) -> None:
    place = moto.bucket()
    with Proxy(moto.endpoint, lambda one: Status(501, "NotImplemented") if conditional(one) else None) as proxy:
        place = place._replace(endpoint=proxy.endpoint)
        conditions.remember(tmp_path, place, Conditions(True, "quoted"))
        store = moto.store(place, state=tmp_path)
        assert store.put_if_absent("a", b"x")
        assert not store.put_if_absent("a", b"y")
        assert store.replace_if_unchanged("a", b"x", b"y")
        store.close()
    assert conditions.remembered(tmp_path, place) == Conditions(False, "")


def test_without_conditional_writes_who_is_told_true_finds_its_own_bytes(rclone: Server) -> None:
    """The weaker contract: a key that was there is not touched, and the last one that wrote is told so."""
    place = rclone.bucket()
    mine = [rclone.store(place) for _ in range(3)]
    told: list[tuple[int, bool]] = []
    threads = [
        threading.Thread(target=lambda n=n: told.append((n, mine[n].put_if_absent("head", b"%d" % n))))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(mine[0].get("head")) in [n for n, won in told if won]
    assert not any(store.put_if_absent("head", b"late") for store in mine)
    for store in mine:
        store.close()


def test_of_two_processes_one_puts_where_the_server_tells(moto: Server) -> None:
    place = moto.bucket()
    code = (
        "import sys\n"
        "from tests.store.servers import Server\nfrom town.store_url import Bucket\n"
        f"store = Server({moto.endpoint!r}, True).store({place!r})\n"
        "store.conditions()\nsys.stdin.readline()\n"
        "print([store.put_if_absent(f'head/{n}', sys.argv[1].encode()) for n in range(10)])\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [json.loads(racer.communicate(timeout=60)[0].lower()) for racer in racers]
    assert all(one != other for one, other in zip(*won, strict=True))


# What is sent. -------------------------------------------------------------------------------------------------------


def test_every_object_is_sent_with_its_md5_and_no_newer_checksum(moto: Server) -> None:
    import base64
    import hashlib

    with through(moto, moto.bucket()) as (proxy, store):
        store.put("a", b"some bytes")
        (sent,) = proxy.seen
        assert header(sent, "content-md5") == base64.b64encode(hashlib.md5(b"some bytes").digest()).decode()
        assert not [name for name, _ in sent.headers if "checksum" in name.lower() or "crc" in name.lower()]


def test_bytes_that_were_changed_on_the_way_are_not_stored(rclone: Server) -> None:
    place = rclone.bucket()

    class Changing(Proxy):
        def _asked(self, request: Request):  # type: ignore[no-untyped-def]
            return super()._asked(replace(request, body=b"y" * len(request.body)))

    straight = rclone.store(place)
    with Changing(rclone.endpoint) as proxy:
        store = rclone.store(place._replace(endpoint=proxy.endpoint), patience=replace(QUICK, total=0.2))
        with pytest.raises(StoreUnreachable, match="BadDigest"):
            store.put("a", b"x" * 100)
        store.close()
    assert list(straight.list("")) == []
    straight.close()


def test_a_listing_and_a_commit_are_one_request_each(moto: Server) -> None:
    store = moto.store(moto.bucket())
    store.put("agents/a/commit-1", b"x")
    assert store.requests == 1
    assert len(list(store.list("agents/a/"))) == 1
    assert store.now() > 0
    assert store.requests == 2
    store.close()


def test_a_listing_goes_on_where_its_page_ended(moto: Server) -> None:
    store = moto.store(moto.bucket("below"))
    for number in range(5):
        store.put(f"packs/{number}", b"x")
    with_pages, first = [], store._objects.page("packs/", most=2)
    while first.token is not None:
        with_pages.append([one.key for one in first.found])
        first = store._objects.page("packs/", first.token, most=2)
    assert [*with_pages, [one.key for one in first.found]] == [
        ["packs/0", "packs/1"], ["packs/2", "packs/3"], ["packs/4"],
    ]  # fmt: skip
    store.close()


def test_at_a_pace_bytes_pass_no_faster_both_ways(moto: Server) -> None:
    store = limited(moto.store(moto.bucket()), 400_000)
    store.put("warm", b"")
    began = time.monotonic()
    store.put("a", b"x" * 100_000)
    assert 0.2 < time.monotonic() - began < 3
    began = time.monotonic()
    in_two = [threading.Thread(target=store.get, args=("a",)) for _ in range(2)]
    for thread in in_two:
        thread.start()
    for thread in in_two:
        thread.join()
    assert 0.45 < time.monotonic() - began < 4


def test_a_probe_through_a_bad_network_is_made_to_its_end(moto: Server) -> None:
    with through(moto, moto.bucket()) as (proxy, store):
        proxy.script = in_turn(Status(503, "SlowDown"), None, Status(500, "InternalError"), None, Status(502, "Bad"))
        assert store.conditions() == Conditions(True, "quoted")


def test_nothing_heavy_is_imported_before_the_first_request(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.store.test_directory import spec_with\n"
        "from persist.store import open_store\n"
        f"open_store(spec_with('s3://agents/signi', Path({str(tmp_path)!r})))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('boto3', 'botocore', 'urllib3')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_else_in_persist_knows_botocore() -> None:
    found = Path(stores.__file__).parents[1].rglob("*.py")
    knows = {path.parent.name for path in found if "import boto" in (text := path.read_text()) or "from boto" in text}
    assert knows == {"s3"}


def test_a_store_without_a_date_says_so(moto: Server) -> None:
    with through(moto, moto.bucket()) as (proxy, store):
        proxy.script = lambda _: Status(200, "X", headers=(("Date", "never"),))
        with pytest.raises((NotAStore, StoreUnreachable)):
            store.now()
