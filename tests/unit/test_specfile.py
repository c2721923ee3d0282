"""One recipient more or less in a spec that a person wrote: every other byte stays, and what is meant comes out."""

import difflib
import re
from pathlib import Path

import pytest

from identity import specfile
from identity.lists import Unforeseen
from town import spec as specs
from town.spec import Spec

A = "age122tdud7k2y8d4nsmnu8ymmh8x64pv42vya3xr9x59ljeuw2vevgsz6e2xk"
B = "age13du3mtpekxl6wrdydf8n23vwqvyypr95qm0cs8zrymeqcv04svlqtmkpt5"
NEW = "age1ghgslpe5l5y2gc2f8acdn6vwlvpkp3zr0y6dt2jn9uw5syjulq6stx80r3"
ADA = "[agents.ada]\nuid = 1100\n"

LAYOUTS = {
    "as the example": f'[town]\ndomain = "x.local"   # dns\n\n[town.recipients]   # who\nhumans = ["{A}"]  # josh\n'
    f'hosts = {{ signi = "{B}" }} # here\n\n# the agents\n{ADA}',
    "a line for each": f'[town.recipients]\nhumans = [\n  "{A}",   # josh\n  # and the old one\n  "{B}"  # laptop\n'
    f"  # end\n]\nhosts = {{}}\n{ADA}",
    "commas at the end": f'[town.recipients]\nhumans = [\n\t"{A}",\n\t\'{B}\',\n]\n{ADA}'.replace("\n", "\r\n"),
    "dotted in [town]": f'[town]\nrecipients.humans = ["{A}"]\nrecipients.hosts.this = "{B}"\n'
    f'domain = "x.local"\n{ADA}',
    "dotted from the top": f'town.recipients.humans = ["{A}", "{B}",]\nagents.ada.uid = 1100\n',
    "all inline": f'[town]\nrecipients = {{ humans = [ "{A}" , "{B}" ] }}   # c\n{ADA}',
    "hosts as a table": f'[town.recipients]\nhumans = ["{A}"]\n[town.recipients.hosts]\n'
    f'signi = "{B}"   # here\n\n# next\n{ADA}',
    "hosts as an empty table": f'[town.recipients]\nhumans = ["{A}",\n          "{B}"]\n'
    f"[town.recipients.hosts] # none\n{ADA}",
    "commas in front": f'[town.recipients]\nhumans = [ "{A}"\n         , "{B}"\n         ]\n{ADA}',
    "quoted keys": f'[town."recipients"]\n"humans" = [\'{A}\']\n'
    f"'hosts' = {{ \"signi\" = '{B}', 'b.c'=\"{B}\" }}\n{ADA}",
    "at the end, without a line break": f'{ADA}[town.recipients]\nhumans = ["{A}", "{B}"]',
    "town in two places": f'[town]\ndomain = "x.local"\n{ADA}'
    f'[town.recipients]\nhumans = ["{A}"]\nhosts.signi = "{B}"\n',
}  # fmt: skip


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def text(request: pytest.FixtureRequest) -> str:
    layout: str = request.param
    return layout


def _read(text: str) -> Spec:
    return specs.parse(text.encode(), Path("town.toml"))


def _lost(old: str, new: str) -> str:
    """What of the old text is not in the new one, in order, without spaces and commas."""
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return re.sub(r"[\s,]", "", "".join(old[i:j] for tag, i, j, _, _ in blocks if tag in ("delete", "replace")))


def test_a_human_more_is_in_the_list_and_nothing_else_is_different(text: str) -> None:
    new = specfile.with_human(_read(text), text, NEW)
    named = _read(new).town.recipients
    assert named is not None
    assert named.humans[-1] == NEW
    assert _lost(text, new) == ""
    assert new.count("\r") == (new.count("\n") if "\r" in text else 0)


@pytest.mark.parametrize("name", ["vm", "vm.two"])
def test_a_host_more_is_in_the_table_and_nothing_else_is_different(text: str, name: str) -> None:
    new = specfile.with_host(_read(text), text, name, NEW)
    named = _read(new).town.recipients
    assert named is not None
    assert dict(named.hosts)[name] == NEW
    assert _lost(text, new) == ""


@pytest.mark.parametrize("name", ["human", "host"])
def test_what_was_put_in_last_is_taken_out_again(text: str, name: str) -> None:
    spec = _read(text)
    new = specfile.with_human(spec, text, NEW) if name == "human" else specfile.with_host(spec, text, "vm", NEW)
    back = specfile.without(_read(new), new, NEW)
    assert _read(back) == spec
    assert _bare(back) == _bare(text)


def _bare(text: str) -> str:
    """Without spaces, the comma behind a last item, and a list of hosts that is empty: those may be left."""
    return re.sub(r",?(?:town\.)?(?:recipients\.)?hosts=\{\}|,(?=[\]#])", "", re.sub(r"\s", "", text))


def test_who_leaves_takes_the_line_and_its_comment_along() -> None:
    text = LAYOUTS["a line for each"]
    assert specfile.without(_read(text), text, A) == text.replace(f'  "{A}",   # josh\n', "")
    assert specfile.without(_read(text), text, B) == text.replace(f'  "{B}"  # laptop\n', "")


def test_a_host_and_a_human_of_one_name_leave_together() -> None:
    text = f'[town.recipients]\nhumans = ["{A}", "{B}"]\nhosts = {{ signi = "{B}", vm = "{NEW}" }}\n{ADA}'
    wanted = f'[town.recipients]\nhumans = ["{A}"]\nhosts = {{ vm = "{NEW}" }}\n{ADA}'
    assert specfile.without(_read(text), text, B) == wanted


def test_an_edit_that_would_end_up_in_another_place_is_refused() -> None:
    """What reads like the header of the table stands in a description first."""
    header = "[town.recipients.hosts]"
    text = (
        f'[agents.ada]\nuid = 1100\ndescription = """\n{header}\n"""\n[town.recipients]\nhumans = ["{A}"]\n{header}\n'
    )
    with pytest.raises(Unforeseen):
        specfile.with_host(_read(text), text, "vm", NEW)


@pytest.mark.parametrize(
    "text",
    [
        f'[town.recipients]\nhumans = ["""{A}"""]\n{ADA}',
        f'[town]\nrecipients = {{ humans = ["{A}"], hosts.signi = "{B}" }}\n{ADA}',
    ],
)
def test_a_layout_that_is_not_foreseen_is_refused(text: str) -> None:
    with pytest.raises(Unforeseen):
        specfile.with_host(_read(text), text, "vm", NEW) if "hosts" in text else specfile.with_human(
            _read(text), text, NEW
        )
