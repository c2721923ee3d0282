"""No name becomes a second line of gpg's parameters, of allowed_signers, of the lock, of git's configuration."""

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gnupg
import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity import lock
from identity.documents import documents
from identity.halves import BadKey, GpgKey, Halves, SshKey
from identity.keys import gpg
from identity.publish_token import Token
from identity.signers import allowed_signers
from identity.texts import ssh_line
from tests.scale import times
from town import spec as specs
from town.failure import BadSpec
from town.process import run

KEY = SshKey("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvLDTYpqUPKrrvoSrMPg14CyZSRPoFHXWs+7WTxJR1K")
TIME = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
HALVES = Halves(KEY, GpgKey("01" * 20, "23" * 20, TIME, None))
FILE = Path("/etc/nuketown/town.toml")
BREAKS = "\n\r\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
PIECES = st.sampled_from(
    [*BREAKS, *"\t \"'\\#,*!=:[]<>%$`", "\x1b[2J", "\u202e", "Expire-Date: 1d", "%no-protection", "Passphrase: x",
     'namespaces="git"', "cert-authority", KEY.public, "---", '"""', "[user]", "signingkey", "ada", "@", "signi.local"]
)  # fmt: skip
NAMES = st.lists(PIECES | st.text(max_size=4), max_size=6).map("".join)
bounded = settings(max_examples=times(80), deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sheets() -> Any:
    with gpg.throw_away_home() as home:
        yield gnupg.GPG(gnupghome=str(home))


@bounded
@given(NAMES, NAMES)
def test_a_user_id_is_refused_or_is_two_parameters_of_gpgs(sheets: Any, name: str, email: str) -> None:
    try:
        gpg.user_id_is_plain(name, email)
    except BadKey:
        return
    plain, made = (
        sheets.gen_key_input(key_type="EDDSA", name_real=one, name_email=two, no_protection=True)
        for one, two in (("Ada", "ada@signi.local"), (name, email))
    )
    # As gpg reads lines, and as strictly as anybody could.
    assert made.count("\n") == plain.count("\n")
    assert len(made.splitlines()) == len(plain.splitlines())
    assert [line.partition(":")[0] for line in made.splitlines()] == [
        line.partition(":")[0] for line in plain.splitlines()
    ]


@bounded
@given(NAMES)
def test_an_address_is_refused_or_is_one_line_for_one_key_in_allowed_signers(email: str) -> None:
    entry = lock.Entry(email, (lock.KeptSsh(KEY, until=TIME), lock.KeptSsh(KEY, since=TIME)))
    try:
        text = allowed_signers({"ada": entry})
    except BadKey:
        return
    assert len(text.splitlines()) == text.count("\n") == 2
    for line in text.splitlines():
        principal, options, *key = line.split(" ")
        assert principal == email
        assert options.startswith('namespaces="git"')
        assert " ".join(key) == KEY.public
        assert not set(principal) & set('*?!,"#')


@bounded
@given(NAMES)
def test_the_lock_gives_back_what_was_put_into_it(email: str) -> None:
    known = {"ada": lock.Entry(email, (lock.KeptSsh(KEY),))}
    assert lock.parse(lock.text(known).encode(), "the lock") == known


def _spec(**git: str) -> specs.Spec:
    tree = {"agents": {"ada": {"uid": 41100, "git": git}}}
    return specs.parse(tomlkit.dumps(tree).encode(), FILE)


@bounded
@given(st.sampled_from(["name", "email"]), NAMES)
def test_a_name_that_the_spec_takes_is_one_value_everywhere(where: str, text: str) -> None:
    try:
        spec = _spec(**{where: text})
    except (BadSpec, ValueError):  # tomlkit writes no lone surrogates
        return
    agent = spec.agents[0]
    assert not set(text) & set(BREAKS)
    gpg.user_id_is_plain(agent.git.name, agent.git.email)
    assert len(str(ssh_line(agent, HALVES)).splitlines()) == 1
    texts = {str(one.path): one.text for one in documents(spec, agent, HALVES)}
    assert tomllib.loads(texts["identity.toml"])["git"][where] == text
    assert len(texts["gitconfig"].splitlines()) == PLAIN_LINES
    said = run(["git", "config", "-f", "-", "-z", "-l"], feed=texts["gitconfig"].encode()).out.decode()
    assert f"user.{where}\n{text}" in said.split("\0")


PLAIN_LINES = next(
    len(one.text.splitlines())
    for spec in [_spec(name="Ada", email="ada@signi.local")]
    for one in documents(spec, spec.agents[0], HALVES)
    if str(one.path) == "gitconfig"
)


@pytest.mark.parametrize("broken", BREAKS)
def test_every_character_that_ends_a_line_is_refused_in_every_name_of_the_spec(broken: str) -> None:
    for place in _names_of_the_spec():
        tree: dict[str, Any] = tomllib.loads(EXAMPLE.read_text())
        at: Any = tree
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = f"a{broken}b"
        with pytest.raises(BadSpec):
            specs.parse(_toml(tree).encode(), FILE)


EXAMPLE = Path(__file__).parent.parent / "fixtures/town.toml"


def _names_of_the_spec() -> Iterator[tuple[str, ...]]:
    yield from (("town", "domain"), ("town", "human", "name"), ("town", "human", "email"), ("town", "human", "user"))
    yield from (("agents", "ada", "git", "name"), ("agents", "ada", "git", "email"), ("agents", "ada", "role"))
    yield from (("agents", "ada", "secrets", "ssh_key"), ("agents", "ada", "secrets", "gpg_key"))
    yield from (("agents", "ada", "secrets", "extra", "anthropic-key"), ("agents", "ada", "prompts", "name"))


def _toml(tree: dict[str, Any]) -> str:
    return tomlkit.dumps(tree)


@bounded
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8), NAMES, NAMES, st.integers(1, 3))
def test_words_of_a_server_never_repeat_the_token_and_stay_one_line(
    token: str, before: str, after: str, often: int
) -> None:
    said = Token(token, "token").hidden(before + token * often + after)
    assert len(said.splitlines()) == 1
    assert token not in before + after or token not in said
    assert said.isprintable()
