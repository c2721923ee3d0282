"""publish, against a GitHub on loopback: what goes there, what never goes anywhere else, and what is said."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from identity import cli, publish_wire
from identity.keys import gpg
from tests.machine import forge as forges
from tests.machine.forge import TOKEN, Forge, said
from town.process import run

pytestmark = pytest.mark.root
SSH, SIGNING, GPG = "/user/keys", "/user/ssh_signing_keys", "/user/gpg_keys"


class Town:
    """Ada, who signs by OpenPGP, and vox, who signs by SSH; their keys are made."""

    out = err = ""  # of the last command, which never says the token

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.spec, self.token, self.capsys = root, root / "town.toml", root / "token", capsys

    def make(self) -> None:
        root = self.root
        run(["age-keygen", "-o", root / "human.key"])
        human = run(["age-keygen", "-y", root / "human.key"]).out.decode().strip()
        self.spec.write_text(
            f'[town]\ndomain = "signi.local"\n[town.recipients]\nhumans = ["{human}"]\n'
            '[agents.ada]\nuid = 41100\n[agents.vox]\nuid = 41101\ngit = { signing = "ssh" }\n'
        )
        self.token.write_text(TOKEN + "\n")
        self.token.chmod(0o600)
        assert cli.main(["--spec", str(self.spec), "gen", "--all"]) == 0

    def identity(self, *words: str) -> int:
        status = cli.main(["--spec", str(self.spec), *words])
        self.out, self.err = self.capsys.readouterr()
        assert TOKEN not in self.out + self.err
        return status

    def publish(self, forge: Forge, *words: str, agent: str = "ada") -> int:
        fixed = ("publish", agent, "--github", "--token-file", str(self.token), "--api", forge.api)
        return self.identity(*fixed, *words)

    def armored(self) -> str:
        return (self.root / "identities/ada/gpg.asc").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("town")
    Town(root, None).make()  # type: ignore[arg-type]
    return root


@pytest.fixture
def town(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Town:
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "human.key"))
    run(["cp", "-a", f"{made}/.", tmp_path])
    return Town(tmp_path, capsys)


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    place = tmp_path / "forge"
    place.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(place / "ca.pem"))
    with forges.forge(place) as running:
        yield running


def test_what_is_missing_is_uploaded_and_a_second_run_changes_nothing(town: Town, forge: Forge) -> None:
    assert town.publish(forge) == 0
    assert forge.changes == [f"POST {SSH}", f"POST {GPG}"]
    assert _gpg_says(forge.lists[GPG][0]["raw_key"]) == _gpg_says(town.armored())
    assert forge.lists[SSH][0]["key"] == " ".join((town.root / "identities/ada/ssh.pub").read_text().split()[:2])
    assert forge.tokens == {f"Bearer {TOKEN}"}
    said_first = town.out
    fingerprint = run(["ssh-keygen", "-lf", town.root / "identities/ada/ssh.pub"]).out.decode().split()[1]
    assert f"upload  SSH key {fingerprint} (localhost:{forge.port}, account ada-bot)\n" in said_first
    assert town.publish(forge) == 0
    assert len(forge.changes) == 2
    assert town.out == "nothing to do\n"


def test_who_signs_by_ssh_gets_a_signing_key_too_and_no_openpgp_key(town: Town, forge: Forge) -> None:
    assert town.publish(forge, agent="vox") == 0
    assert forge.changes == [f"POST {SSH}", f"POST {SIGNING}"]
    assert forge.lists[SSH][0]["key"] == forge.lists[SIGNING][0]["key"]
    assert not [line for line in forge.asked if GPG in line]  # and needs no right to that list


def test_nothing_private_is_sent(town: Town, forge: Forge) -> None:
    gpg_asc = town.root / "identities/ada/gpg.asc"
    with gpg.throw_away_home() as home:
        private = gpg.generate(home, "Ada", "ada@signi.local").whole
    gpg_asc.write_text(gpg_asc.read_text() + private)
    assert town.publish(forge) == town.publish(forge, agent="vox") == 0
    sent = b"".join(forge.sent)
    assert b"BEGIN PGP PUBLIC KEY BLOCK" in sent
    assert b"PRIVATE" not in sent
    gpg_asc.write_text(private)
    asked = len(forge.asked)
    assert town.publish(forge) == 1
    assert len(forge.asked) == asked


def test_a_dry_run_looks_and_changes_nothing(town: Town, forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.publish(forge, "--dry-run") == 0
    assert forge.changes == []
    assert [line.split()[0] for line in town.out.splitlines()] == ["upload", "upload"]


def test_every_page_is_read_and_no_address_of_an_answer_is_asked(town: Town, forge: Forge) -> None:
    others = [f"{run(['ssh-keygen', '-y', '-f', _key(town.root, n)]).out.decode().strip()}" for n in range(4)]
    for line in others:
        forge.put(SSH, line, "ada of signi.local")
    forge.put(SSH, (town.root / "identities/ada/ssh.pub").read_text(), "laptop")  # on the third page
    assert town.publish(forge) == 0
    assert forge.changes == [f"POST {GPG}"]
    assert forge.asked.count(f"GET {SSH}") == 3


def test_a_title_says_nothing(town: Town, forge: Forge) -> None:
    other = run(["ssh-keygen", "-y", "-f", _key(town.root, 1)]).out.decode().strip()
    forge.put(SSH, other, "ada of signi.local")
    assert town.publish(forge) == 0
    assert [one["key"] for one in forge.lists[SSH]][1:] == [_public(town, "ada")]
    assert len(forge.lists[SSH]) == 2


def test_keys_of_other_kinds_are_left_in_peace(town: Town, forge: Forge) -> None:
    forge.lists[SSH].append({"id": 7, "title": "x", "key": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ=="})
    forge.lists[SSH].append({"id": 8, "title": "x", "key": "nonsense"})
    forge.lists[GPG].append({"id": 9, "name": "x", "raw_key": "nonsense", "public_key": "nonsense"})
    forge.lists[GPG].append({"id": 10, "name": "x", "raw_key": None, "public_key": None, "subkeys": None})
    assert town.publish(forge, "--replace") == 0
    assert forge.changes == [f"POST {SSH}", f"POST {GPG}"]


@pytest.mark.parametrize("raw", [True, False])
def test_an_openpgp_key_is_known_by_its_packets_also_without_the_upload(town: Town, forge: Forge, raw: bool) -> None:
    forge.raw = raw
    forge.put(GPG, town.armored(), "anything")
    forge.put(SSH, _public(town, "ada"), "anything")
    assert town.publish(forge) == 0
    assert forge.changes == []


def test_an_older_state_of_an_openpgp_key_is_told_and_replaced_on_demand_only(town: Town, forge: Forge) -> None:
    assert town.publish(forge) == 0
    before = forge.lists[GPG][0]["id"]
    assert town.identity("rotate", "ada", "--gpg") == 0  # another subkey below the same primary key
    forge.asked.clear()
    assert town.publish(forge) == 0
    assert forge.changes == []
    assert "in an older state" in town.err
    assert "--replace" in town.err
    assert town.publish(forge, "--replace", "--dry-run") == 0
    assert forge.changes == []
    assert [line.split()[0] for line in town.out.splitlines()] == ["remove", "upload"]
    assert town.publish(forge, "--replace") == 0
    assert forge.changes == [f"DELETE {GPG}/{before}", f"POST {GPG}"]
    assert _gpg_says(forge.lists[GPG][0]["raw_key"]) == _gpg_says(town.armored())
    assert town.publish(forge) == town.publish(forge, "--replace") == 0
    assert len(forge.changes) == 2


def test_a_revoked_openpgp_key_goes_there_with_its_revocation_and_its_successor_by_itself(
    town: Town, forge: Forge
) -> None:
    assert town.publish(forge) == 0
    assert town.identity("revoke", "ada", "--gpg") == 0
    assert town.publish(forge) == 0
    assert len(forge.lists[GPG]) == 1
    assert "in an older state" in town.err
    assert town.publish(forge, "--replace") == 0
    revoked = forge.lists[GPG][0]["raw_key"]
    assert _gpg_says(revoked)[0].startswith("pub:r:")
    assert town.identity("rotate", "ada", "--gpg") == 0
    assert town.publish(forge) == 0
    assert len(forge.lists[GPG]) == 2
    assert forge.lists[GPG][0]["raw_key"] == revoked
    primaries = [line for line in _gpg_says(forge.lists[GPG][1]["raw_key"]) if line.startswith("pub:")]
    assert len(primaries) == 1  # gpg.asc has both keys, an upload has one
    assert not primaries[0].startswith("pub:r:")
    assert town.publish(forge, "--replace") == 0
    assert town.out == "nothing to do\n"


def test_a_revoked_ssh_key_that_still_opens_the_account_is_told_and_taken_out_on_demand(
    town: Town, forge: Forge
) -> None:
    assert town.publish(forge, agent="vox") == 0
    assert town.identity("revoke", "vox", "--ssh") == 0
    forge.asked.clear()
    assert town.publish(forge, agent="vox") == 0
    assert forge.changes == []
    assert town.err.count(", revoked\n") == 2
    assert town.publish(forge, "--replace", agent="vox") == 0
    assert sorted(line.split("/")[2] for line in forge.changes) == ["keys", "ssh_signing_keys"]
    assert forge.lists[SSH] == forge.lists[SIGNING] == []


def test_a_rotated_key_no_longer_opens_the_account_and_goes_on_proving_what_it_signed(town: Town, forge: Forge) -> None:
    assert town.publish(forge, agent="vox") == 0
    old = _public(town, "vox")
    assert town.identity("rotate", "vox", "--ssh") == 0
    assert town.publish(forge, agent="vox") == 0
    assert town.err.count(", rotated\n") == 1
    assert town.publish(forge, "--replace", agent="vox") == 0
    assert [one["key"] for one in forge.lists[SSH]] == [_public(town, "vox")]
    assert [one["key"] for one in forge.lists[SIGNING]] == [old, _public(town, "vox")]


def test_an_address_that_the_account_has_not_confirmed_is_told(town: Town, forge: Forge) -> None:
    forge.confirmed = False
    assert town.publish(forge) == town.publish(forge) == 0
    assert "ada@signi.local is no confirmed address" in town.err


def test_a_token_of_another_account_is_refused_before_anything_is_sent(town: Town, forge: Forge) -> None:
    forge.login = "josh"
    assert town.publish(forge, "--account", "ada-bot") == 1
    assert forge.asked == ["GET /user"]
    assert "josh" in town.err
    assert town.publish(forge, "--account", "JOSH") == 0


def test_the_token_goes_to_no_other_host_by_the_environment(
    town: Town, forge: Forge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[object, ...]] = []

    def refused(address: tuple[object, ...], *rest: object, **more: object) -> None:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refused)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "GITHUB_API_URL", "GH_HOST", "NUKETOWN_API"):
        monkeypatch.setenv(name, forge.api)
    assert town.identity("publish", "ada", "--github", "--token-file", str(town.token)) == 75
    assert asked == [("api.github.com", 443)]
    assert forge.asked == []


def test_the_sessions_keys_are_not_logged(town: Town, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(town.root / "keys.log"))
    assert town.publish(forge) == 0
    assert not (town.root / "keys.log").exists()


_NO_APIS = (
    "http://localhost/", "https://a:b@localhost/", "https://localhost/?x=1", "https://", "ftp://x/", "x", "https://x:y/",
    "https://localhost/#f", "https://lo calhost/", "https://localhost/\r\nX: y", "https://-/", f"https://{'a' * 70}.b",
)  # fmt: skip


@pytest.mark.parametrize("url", _NO_APIS)
def test_an_api_without_tls_or_with_more_than_a_place_is_refused_and_not_repeated(town: Town, url: str) -> None:
    words = ("publish", "ada", "--github", "--token-file", str(town.token), "--api", url)
    assert town.identity(*words) == 2
    assert "a:b" not in town.err


def test_a_host_that_cannot_prove_itself_never_sees_the_token(
    town: Town, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert town.publish(forge) == 1
    assert forge.tokens == set()
    assert "does not prove" in town.err


def test_no_network_is_a_reason_to_come_again(town: Town, forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"https://localhost:{free.getsockname()[1]}"
    words = ("publish", "ada", "--github", "--token-file", str(town.token))
    assert town.identity(*words, "--api", nobody) == 75
    assert "cannot be reached" in town.err
    assert town.identity(*words, "--api", "https://nobody.invalid") == 75


_NEVER = {"message": f"no {TOKEN} here"}
_ANSWERS = {
    "a wrong token": (said(401, {"message": "Bad credentials"}), 1, ["Bad credentials", "admin:public_key"]),
    "a missing scope": (said(404, {"message": "Not Found"}), 1, ["admin:public_key", "Git SSH keys: write"]),
    "a missing permission": (
        said(403, {"message": "Resource not accessible by personal access token"}), 1, ["not accessible", "permission"],
    ),
    "a rate limit": (
        said(403, {"message": "limit"}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795000000"}),
        75, ["2026-11-18"],
    ),
    "a secondary limit": (said(403, {"message": "You have exceeded a secondary rate limit"}), 75, ["in some minutes"]),
    "too many requests": (said(429, {"message": "slow down"}, {"Retry-After": "61"}), 75, ["in 61 s"]),
    "too many requests without a time": (said(429, {"message": "slow down"}), 75, ["in some minutes"]),
    "a server that is down": (said(503, {"message": "down"}), 75, ["503"]),
    "a page for people, down": ((502, {"Content-Type": "text/html"}, b"<h1>bad gateway"), 75, ["text/html"]),
    "a page for people": ((200, {"Content-Type": "text/html"}, b"<h1>log in"), 1, ["text/html"]),
    "a captive portal": ((302, {"Location": "https://portal.invalid/"}, b""), 1, ["portal.invalid", "not followed"]),
    "a redirect elsewhere": ((307, {"Location": f"https://x.invalid/{TOKEN}"}, b""), 1, ["not followed"]),
    "no JSON": ((200, {"Content-Type": "application/json"}, b"{"), 1, ["instead of JSON"]),
    "deep JSON": ((200, {"Content-Type": "application/json"}, b"[" * 100_000), 1, ["JSON"]),
    "another API": (said(200, {"message": "hello"}), 1, ["something else"]),
    "a list of nothing": (said(200, ["x"]), 1, ["something else"]),
    "a message that repeats the token": (said(403, _NEVER), 1, ["no … here"]),
    "a message that acts on a terminal": (said(403, {"message": "\x1b[2J\u202e\n"}), 1, ["\\x1b[2J\\u202e\\n"]),
    "an answer that says nothing": (said(400, []), 1, ["it said nothing"]),
    "errors that are no list": (said(422, {"message": "no", "errors": 5}), 1, ["no"]),
    "half an answer": ((200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}, b"zz\r\n"), 1, []),
}  # fmt: skip


@pytest.mark.parametrize("name", _ANSWERS)
def test_every_other_answer_is_named_and_nothing_is_changed(town: Town, forge: Forge, name: str) -> None:
    answer, status, words = _ANSWERS[name]
    forge.instead = lambda _, path: answer if path == SSH else None
    assert town.publish(forge, "--debug") == status
    assert [word for word in words if word not in town.err] == []
    assert "Traceback" in town.err
    assert forge.changes == []


def test_a_key_that_another_account_holds_is_told_in_githubs_words(town: Town, forge: Forge) -> None:
    forge.instead = lambda method, _: said(422, forges._IN_USE) if method == "POST" else None
    assert town.publish(forge) == 1
    assert "key is already in use" in town.err


def test_an_account_that_keeps_another_key_than_was_sent_is_told(town: Town, forge: Forge) -> None:
    other = run(["ssh-keygen", "-y", "-f", _key(town.root, 1)]).out.decode().strip()
    forge.instead = lambda method, _: said(201, {"id": 1, "key": other}) if method == "POST" else None
    assert town.publish(forge) == 1
    assert "keeps SHA256:" in town.err


def test_a_login_that_repeats_the_token_is_not_printed(town: Town, forge: Forge) -> None:
    forge.login = TOKEN
    assert town.publish(forge) == 1
    assert "something else" in town.err


def test_a_page_of_more_keys_than_were_asked_for_is_no_page(town: Town, forge: Forge) -> None:
    forge.instead = lambda _, path: said(200, [{"id": 1, "key": "x"}] * 101) if path == SSH else None
    assert town.publish(forge) == 1
    assert "something else" in town.err


@pytest.mark.parametrize("drop", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H", b"HTTP/1.1 200 OK\r\nX-A: b\r\n"])
def test_an_answer_that_never_ends_is_given_up(
    town: Town, forge: Forge, drop: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_wire, "_SECONDS", 1.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(town.root / "forge/server.pem")
    over = threading.Event()

    def drip(listening: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(listening.accept()[0], server_side=True) as line:
            line.recv(65536)
            while not over.wait(0.05):
                line.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        words = ("publish", "ada", "--github", "--token-file", str(town.token))
        assert town.identity(*words, "--api", f"https://localhost:{listening.getsockname()[1]}") == 75
        over.set()
        thread.join()
    assert "did not answer in time" in town.err


def test_a_list_without_end_is_given_up(town: Town, forge: Forge) -> None:
    endless = said(200, [], {"Link": '<https://x.invalid>; rel="next"'})
    forge.instead = lambda _, path: endless if path == SSH else None
    assert town.publish(forge) == 1
    assert forge.asked.count(f"GET {SSH}") == 100


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_token_that_others_can_read_is_not_used(town: Town, forge: Forge, mode: int) -> None:
    town.token.chmod(mode)
    assert town.publish(forge) == 1
    assert forge.asked == []


def test_a_token_of_somebody_else_is_not_used(town: Town, forge: Forge) -> None:
    os.chown(town.token, 41100, 41100)
    assert town.publish(forge) == 1
    assert forge.asked == []


@pytest.mark.parametrize("text", ["", "\n", "a b", f"{TOKEN}\nX-More: y", "tökén", "x" * 5000, "a\0b"])
def test_a_file_that_holds_no_token_is_refused_and_not_repeated(town: Town, forge: Forge, text: str) -> None:
    town.token.write_text(text)
    assert town.publish(forge, "--debug") == 1
    assert forge.asked == []
    assert "tökén" not in town.err


def test_a_token_is_a_file_and_neither_missing_nor_a_pipe(town: Town, forge: Forge) -> None:
    town.token.unlink()
    assert town.publish(forge) == 1
    os.mkfifo(town.token, 0o600)
    assert town.publish(forge) == 1
    assert town.identity("publish", "ada", "--github") == 2
    assert town.identity("publish", "ada", "--token-file", str(town.token)) == 2
    assert forge.asked == []


def test_an_agent_without_keys_is_told_what_makes_them(town: Town, forge: Forge) -> None:
    town.spec.write_text(town.spec.read_text() + "[agents.new]\nuid = 41102\n")
    assert town.publish(forge, agent="new") == 1
    assert "hint: identity gen " in town.err
    assert forge.asked == []


def test_keys_that_the_lock_does_not_name_are_not_published(town: Town, forge: Forge) -> None:
    ada = town.root / "identities/ada"
    ada.joinpath("ssh.pub").write_text((town.root / "identities/vox/ssh.pub").read_text())
    assert town.publish(forge) == 1
    assert forge.asked == []


def _key(root: Path, number: int) -> Path:
    path = root / f"other{number}"
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path])
    return path


def _public(town: Town, agent: str) -> str:
    return " ".join((town.root / f"identities/{agent}/ssh.pub").read_text().split()[:2])


def _gpg_says(armored: str) -> list[str]:
    with gpg.throw_away_home() as home:
        env = {"GNUPGHOME": str(home)}
        run(["gpg", "--batch", "--import"], feed=armored.encode(), env=env)
        return run(["gpg", "--with-colons", "--list-keys"], env=env).out.decode().splitlines()[1:]
