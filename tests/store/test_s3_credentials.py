"""With what requests are signed: which files are read, which are refused, and that no secret is ever said."""

import json
import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from persist.store import NoCredentials, StoreDenied, WrongCredentials, open_store
from persist.store.s3 import S3Store, credentials
from persist.store.s3.credentials import Access, Keys
from tests.store.faults import Proxy, Status
from tests.store.servers import KEYS, QUICK, Server, url
from town import spec
from town.failure import Failure, Unsafe
from town.spec import Spec
from town.store_url import Bucket

AGENT = 1100
TEXT = f"[default]\naws_access_key_id = {KEYS.access}\naws_secret_access_key = {KEYS.secret}\n"
PLACE = Bucket("agents", "signi", "http://127.0.0.1:1", "us-east-1")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name in ("CREDENTIALS_DIRECTORY", "BOTO_CONFIG"):
            monkeypatch.delenv(name)
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "root"))


def spec_with(tmp_path: Path, file: Path | None = None, store: str = "s3://agents/signi") -> Spec:
    named = f'store_credentials = "{file}"\n' if file else ""
    text = (
        f'[town]\ndomain = "t.local"\npersist_dir = "{tmp_path}/state"\nstore = "{store}"\n{named}'
        f'human = {{ user = "root", name = "R", email = "r@t.local" }}\n[agents.ada]\nuid = {AGENT}\nrole = "x"\n'
    )
    return spec.parse(text.encode(), tmp_path / "town.toml")


def given(path: Path, text: str = TEXT, mode: int = 0o400) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_file_that_the_spec_names_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "creds").mkdir()
    given(tmp_path / "creds/s3", TEXT.replace(KEYS.access, "SYSTEMD"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "creds"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    named = given(tmp_path / "named")
    assert credentials.access(spec_with(tmp_path, named), PLACE).keys == KEYS
    by_systemd = credentials.access(spec_with(tmp_path), PLACE).keys
    assert by_systemd is not None
    assert by_systemd.access == "SYSTEMD"
    (tmp_path / "creds/s3").unlink()
    assert credentials.access(spec_with(tmp_path), PLACE).keys is None  # then boto3's chain


def test_a_temporary_key_has_its_token(tmp_path: Path) -> None:
    file = given(tmp_path / "named", f"[only]\n{TEXT.partition(chr(10))[2]}aws_session_token = tok\n")
    assert credentials.access(spec_with(tmp_path, file), PLACE).keys == replace(KEYS, token="tok")


@pytest.mark.parametrize(
    "text",
    [
        "", "[a]\n[b]\n", TEXT.replace(KEYS.secret, ""), "aws_secret_access_key = hunter2\n", TEXT + "hunter2",
        "[default]\ncredential_process = /bin/sh -c hunter2\n", TEXT.replace(KEYS.access, "hunter2 x"),
        "[default]\naws_access_key_id = hunter2\naws_access_key_id = hunter2\n", TEXT + TEXT + "# hunter2\n",
    ],
    ids=range(9),
)  # fmt: skip
def test_a_file_that_is_none_is_refused_and_no_line_of_it_is_said(tmp_path: Path, text: str) -> None:
    file = given(tmp_path / "named", text)
    with pytest.raises(WrongCredentials) as caught:
        credentials.access(spec_with(tmp_path, file), PLACE)
    said = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert str(file) in said
    assert "hunter2" not in said
    assert KEYS.secret not in said


def test_a_key_that_the_store_refuses_is_named_by_its_file(tmp_path: Path, moto: Server) -> None:
    file = given(tmp_path / "named")
    with Proxy(moto.endpoint) as proxy:
        proxy.script = lambda _: Status(403, "InvalidAccessKeyId")
        store = open_store(spec_with(tmp_path, file, f"s3://agents/signi?endpoint={proxy.endpoint}"))
        with pytest.raises(WrongCredentials) as caught:
            store.get("a")
    assert f"the key of town.store_credentials: {file}" in caught.value.what
    assert str(file) in caught.value.hint


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoCredentials, match=r"town\.store_credentials: .*none is not there"):
        credentials.access(spec_with(tmp_path, tmp_path / "none"), PLACE)


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o444, 0o440, 0o404, 0o660, 0o602, 0o410])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = given(tmp_path / "named", mode=mode)
    with pytest.raises(Unsafe, match=r"others can|can be written") as caught:
        credentials.access(spec_with(tmp_path, file), PLACE)
    assert "chmod" in caught.value.hint or "set town.store_credentials" in caught.value.hint


def agents_file(base: Path) -> Path:
    os.chown(file := given(base / "named"), AGENT, AGENT)
    return file


def agents_directory(base: Path) -> Path:
    (base / "home").mkdir()
    os.chown(base / "home", AGENT, AGENT)
    return given(base / "home/named")


def by_agents_link(base: Path) -> Path:
    given(base / "real")
    (base / "link").symlink_to(base / "real")
    os.chown(base / "link", AGENT, AGENT, follow_symlinks=False)
    return base / "link"


def strangers_file(base: Path) -> Path:
    os.chown(file := given(base / "named"), 4242, 4242)
    return file


def fifo(base: Path) -> Path:
    os.mkfifo(base / "named", 0o600)
    return base / "named"


@pytest.mark.root
@pytest.mark.parametrize("made", [agents_file, agents_directory, by_agents_link, strangers_file])
def test_a_file_that_an_agent_or_a_stranger_could_have_written_is_refused(
    tmp_path: Path, made: Callable[[Path], Path]
) -> None:
    with pytest.raises(Unsafe):
        credentials.access(spec_with(tmp_path, made(tmp_path)), PLACE)


def test_a_fifo_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="not a regular file"):
        credentials.access(spec_with(tmp_path, fifo(tmp_path)), PLACE)


def test_a_link_of_roots_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(given(tmp_path / "generation-1"))
    assert credentials.access(spec_with(tmp_path, tmp_path / "link"), PLACE).keys == KEYS


# boto3's chain. ------------------------------------------------------------------------------------------------------


def signed_by(place: Bucket, town: Spec) -> str:
    """The access key that a request was signed with."""
    with Proxy("http://127.0.0.1:1", lambda _: Status(403, "AccessDenied")) as proxy:
        place = place._replace(endpoint=proxy.endpoint)
        store = S3Store(place, lambda: credentials.access(town, place), patience=QUICK)
        with pytest.raises(StoreDenied):
            store.get("a")
        store.close()
        signed = dict(proxy.seen[0].headers)["Authorization"]
        return signed.partition("Credential=")[2].partition("/")[0]


def test_without_a_file_the_chain_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root/.aws").mkdir()
    given(tmp_path / "root/.aws/credentials", TEXT.replace(KEYS.access, "INHOME"))
    assert signed_by(PLACE, spec_with(tmp_path)) == "INHOME"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert signed_by(PLACE, spec_with(tmp_path)) == "ENVIRONMENT"


def test_where_nothing_says_it_nothing_is_sent(tmp_path: Path) -> None:
    store = S3Store(PLACE, lambda: credentials.access(spec_with(tmp_path), PLACE), patience=QUICK)
    with pytest.raises(NoCredentials) as caught:
        store.get("a")
    assert (store.requests, "town.store_credentials" in caught.value.hint) == (0, True)


@pytest.mark.root
@pytest.mark.parametrize(
    "variable",
    ["HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE",
     "BOTO_CONFIG", "AWS_LOGIN_CACHE_DIRECTORY"],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False])
def test_no_file_that_an_agent_can_write_or_put_there_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, there: bool
) -> None:
    home = tmp_path / "ada"
    (home / ".aws").mkdir(parents=True)
    given(home / "file", TEXT, 0o600)
    given(home / ".aws/config", "[default]\ncredential_process = /bin/false\n", 0o600)
    for path in (home, *home.rglob("*")):
        os.chown(path, AGENT, AGENT)
    value = home if variable == "HOME" else home / ("file" if there else "none")
    monkeypatch.setenv(variable, str(value))
    with pytest.raises(Unsafe, match=f"which {variable} leads to, is not read: .* belongs to the agent ada"):
        credentials.access(spec_with(tmp_path), PLACE)


def test_with_a_file_nothing_of_a_home_or_the_environment_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a region, an endpoint, a process, a plugin or a description of the service."""
    ran = tmp_path / "ran"
    (tmp_path / "root/.aws/models/s3/2006-03-01").mkdir(parents=True)
    (tmp_path / "root/.aws/models/s3/2006-03-01/service-2.json").write_text("not json")
    config = f"[default]\nregion = mars\nendpoint_url = http://127.0.0.1:2\ncredential_process = touch {ran}\n"
    given(tmp_path / "root/.aws/config", config + "s3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:3")
    monkeypatch.setenv("AWS_REGION", "venus")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "venus")
    monkeypatch.setenv("AWS_PROFILE", "none")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    town = spec_with(tmp_path, given(tmp_path / "named"))
    assert signed_by(PLACE._replace(region=None), town) == KEYS.access
    amazon = S3Store(Bucket("agents"), lambda: credentials.access(town, PLACE))
    amazon._client._ready()
    assert amazon._client._address is not None
    assert amazon._client._address.url == "https://agents.s3.amazonaws.com"
    assert amazon._client._address.region == "us-east-1"
    amazon.close()
    assert not ran.exists()


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An instance's metadata service, on loopback: the paths that it was asked for."""
    asked: list[str] = []
    role = {"Code": "Success", "AccessKeyId": "BYIMDS", "SecretAccessKey": "s", "Token": "t"}
    role["Expiration"] = "2999-01-01T00:00:00Z"

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            asked.append(self.path)
            ends = {"token": "token", "security-credentials/": "role", "role": json.dumps(role)}
            body = next((text for end, text in ends.items() if self.path.endswith(end)), "").encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = serve  # noqa: N815 - as http.server asks for them

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        yield asked
        server.shutdown()
        thread.join()


def test_the_instances_metadata_is_not_asked_unless_the_url_says_so(
    tmp_path: Path, metadata: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    town = spec_with(tmp_path)
    store = S3Store(PLACE, lambda: credentials.access(town, PLACE), patience=QUICK)
    with pytest.raises(NoCredentials):
        store.get("a")
    assert metadata == []
    assert signed_by(PLACE._replace(imds=True), town) == "BYIMDS"
    assert metadata
    assert "which every user of this machine can read, agents too" in capsys.readouterr().err


def test_a_profile_does_not_bring_the_instances_metadata_back(tmp_path: Path, metadata: list[str]) -> None:
    (tmp_path / "root/.aws").mkdir()
    profile = "[default]\nrole_arn = arn:aws:iam::1:role/x\ncredential_source = Ec2InstanceMetadata\n"
    given(tmp_path / "root/.aws/config", profile)
    store = S3Store(PLACE, lambda: credentials.access(spec_with(tmp_path), PLACE), patience=QUICK)
    with pytest.raises(NoCredentials):
        store.get("a")
    assert metadata == []


# Secrets. ------------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_messages_tracebacks_and_debug_logs(
    rclone: Server, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = Keys(KEYS.access, "a-very-secret-secret", "a-very-secret-token")
    access = Access(keys)
    store = S3Store(rclone.bucket(), lambda: access, patience=QUICK)
    caplog.set_level(logging.DEBUG)
    said = repr(access) + repr(keys)
    for call in (lambda: store.get("a"), lambda: store.put("a", b"x"), lambda: list(store.list(""))):
        with pytest.raises(Failure) as caught:
            call()
        said += "".join(traceback.format_exception(caught.value)) + caught.value.hint
    store.close()
    out = capsys.readouterr()
    assert "a-very-secret" not in said + caplog.text + out.out + out.err


def test_a_store_of_a_spec_is_used_with_its_file_and_its_prefix(rclone: Server, tmp_path: Path) -> None:
    place = rclone.bucket("towns/signi")
    town = spec_with(tmp_path, rclone.credentials(tmp_path / "keys"), url(place))
    store = open_store(town)
    store.put("a/b", b"x")
    assert [found.key for found in open_store(town).list("a")] == ["a/b"]
    outside = rclone.store(place._replace(prefix=""))
    assert [found.key for found in outside.list("")] == ["towns/signi/a/b"]
    outside.close()
