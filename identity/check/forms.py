"""What a secret in clear looks like: private keys in their text forms, and tokens that carry their maker's prefix.

One pass of RE2 over the bytes, whatever they are (some 200 MB a second). A hit says which kind it is and where; no
text of it is kept, for a finding is printed.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_BODY = re.compile(rb"[A-Za-z0-9+/=]{40}")
_NEAR = 1000  # bytes behind a header in which the key itself begins: headers and comments of PEM stand between
_LEAST, _LONGEST = 16, 4096  # characters of a value that is looked for: a shorter one is met by accident
_VARIED = 8  # different characters: fewer make a placeholder, such as ghp_xxxx
_MOST = 10_000  # hits in one text
_PEM = rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_WRAPPED = rb"LS0tLS1CRUdJTi[A-Za-z0-9+/]{20}"  # base64 of "-----BEGIN " and more
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]+")

# Kinds and their form. The prefixes are those that each maker documents for secret scanners.
FORMS: tuple[tuple[str, bytes], ...] = (
    ("a private key", _PEM),  # RFC 7468, OpenSSH's PROTOCOL.key, RFC 4880 section 6.2
    ("a private key in base64", _WRAPPED),  # a file in a manifest, or for a variable of continuous integration
    ("a private key of PuTTY", rb"PuTTY-User-Key-File-[23]: [a-z0-9-]{3,40}"),
    ("an age private key", rb"(?i)AGE-SECRET-KEY-(?:PQ-)?1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{40,200}"),
    ("a token of Anthropic", rb"\bsk-ant-[a-z]{2,10}[0-9]{2}-[A-Za-z0-9_-]{60,200}"),
    ("a key of OpenAI", rb"\bsk-[A-Za-z0-9_-]{16,120}T3BlbkFJ[A-Za-z0-9_-]{16,120}"),
    ("a token of GitHub", rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{70,120})"),
    ("a token of GitLab", rb"\bgl(?:pat|dt|rt|cbt|ptt|soat)-[A-Za-z0-9_.-]{20,300}"),
    ("a key of Google", rb"\bAIza[A-Za-z0-9_-]{35}"),
    ("a client secret of Google", rb"\bGOCSPX-[A-Za-z0-9_-]{28}"),
    ("a secret access key of AWS", rb"(?i)secret_?access_?key[\"' \t]*[=:][\"' \t]*[A-Za-z0-9/+]{40}\b"),
    ("a token of Hugging Face", rb"\bhf_[A-Za-z0-9]{34}\b"),
    ("a token of npm", rb"\bnpm_[A-Za-z0-9]{36}\b"),
    ("a token of PyPI", rb"\bpypi-AgE[A-Za-z0-9_-]{50,300}"),
    ("a token of Slack", rb"\bxox[abeoprs]-[A-Za-z0-9-]{20,300}"),
    ("a key of Stripe", rb"\b[rs]k_live_[A-Za-z0-9]{20,250}"),
    ("a key of Tailscale", rb"\btskey-[a-z]{3,10}-[A-Za-z0-9-]{16,100}"),
    ("a token of Vault", rb"\bhv[sbr]\.[A-Za-z0-9_-]{24,300}"),
    ("a token of DigitalOcean", rb"\bdo[opr]_v1_[a-f0-9]{64}\b"),
    ("a token of Docker", rb"\bdckr_pat_[A-Za-z0-9_-]{27}"),
)


class Hit(NamedTuple):
    """A secret in a text: the number of its line, from 1, and what it is."""

    line: int
    what: str


class Forms:
    """All forms, and `values` that are known because a key at hand opened them: name in messages to value."""

    def __init__(self, values: Mapping[str, str]) -> None:
        known = {name: value.encode() for name, value in values.items() if _distinct(value)}
        self._kinds = [kind for kind, _ in FORMS] + [f"the value of {name}" for name in known]
        self._pattern = _compiled([*(form for _, form in FORMS), *map(_literal, known.values())])
        self._known = known

    def known(self, data: bytes) -> list[str]:
        """Which of the values a text holds."""
        texts = plain(data)
        return [f"the value of {name}" for name, value in self._known.items() if any(value in one for one in texts)]

    def hits(self, data: bytes) -> Iterator[Hit]:
        """The secrets in a text, in the order of its lines. One that is full of what looks like them is one itself."""
        for text in plain(data):
            yield from self._hits(text)

    def _hits(self, data: bytes) -> Iterator[Hit]:
        line, counted = 1, 0
        for number, found in enumerate(self._pattern.finditer(data)):
            if number == _MOST:
                yield Hit(line, "more that looks like a secret than can be looked at")
                return
            at = found.lastindex - 1
            if at >= len(FORMS) or _is_secret(FORMS[at], data, found):
                line, counted = line + data.count(b"\n", counted, found.start()), found.start()
                yield Hit(line, self._kinds[at])


def plain(data: bytes) -> list[bytes]:
    """The bytes that forms are looked for in: a text as it is, and what seems to be UTF-16, as PowerShell's `>` writes
    it, in UTF-8 too.
    """
    for codec, mark, at in (("utf-16-le", b"\xff\xfe", 1), ("utf-16-be", b"\xfe\xff", 0)):
        zeros = data[at:64:2]
        if data.startswith(mark) or (len(zeros) > _LEAST // 2 and not zeros.strip(b"\0")):
            return [data, data.decode(codec, "replace").encode("utf-8", "replace")]
    return [data]


def _compiled(forms: list[bytes]) -> Any:
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are: no text is refused for its encoding
    options.max_mem = 64 << 20
    options.log_errors = False
    return re2.compile(b"|".join(b"(%s)" % form for form in forms), options)


def _literal(value: bytes) -> bytes:
    import re2

    escaped: bytes = re2.escape(value)
    return escaped


def _distinct(value: str) -> bool:
    return _LEAST <= len(value) <= _LONGEST and "\n" not in value and len(set(value)) >= _VARIED


def _is_secret(form: tuple[str, bytes], data: bytes, found: Any) -> bool:
    """Whether there is more than a header, a placeholder or the example of a manual."""
    if form[1] is _PEM:
        return _begins_key(data[found.end() : found.end() + _NEAR])
    if form[1] is _WRAPPED:
        return _wraps_key(data[found.start() : found.start() + 2 * _NEAR])
    text = found.group()
    return len(set(text[-30:])) >= _VARIED and b"EXAMPLE" not in text


def _begins_key(near: bytes) -> bool:
    """Whether there is a key behind a header."""
    body = _BODY.search(near.split(b"-----END", 1)[0])
    return body is not None and len(set(body[0])) >= _VARIED


def _wraps_key(near: bytes) -> bool:
    """Whether what is in base64 begins with the header of a private key, and not of a certificate, and goes on."""
    held = b"".join(_BASE64.match(near)[0].split())  # type: ignore[index] # the form itself matches
    text = base64.b64decode(held[: len(held) // 4 * 4])
    header = re.match(_PEM, text)
    return header is not None and _begins_key(text[header.end() :])
