"""The token that lets `identity publish` act in an account: from a file of the caller's own, and into one header."""

import os
import re
import stat
from dataclasses import dataclass

from town import files
from town.failure import Failure, WrongUsage
from town.terminal import shell_word, shown

_LIMIT = 4096  # bytes; the longest that GitHub makes have some hundred
_CHARACTERS = re.compile(r"[\x21-\x7e]+")  # what a header may carry (RFC 9110 5.5), so no line of it can be added


class BadToken(Failure):
    """The file with the token is missing, can be read by others, or holds no token. What it holds is never repeated."""


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """A token and the file that it came from. Its text is for the header alone."""

    text: str
    file: str

    def hidden(self, words: str) -> str:
        """Words from outside, safe to print: without the token, which a server may have repeated."""
        return shown(words.replace(self.text, "…"))


def read(file: str | None) -> Token:
    """The token in a file that belongs to the caller and that nobody else may read. Raises BadToken, WrongUsage."""
    if file is None:
        raise WrongUsage(
            "publish needs --token-file: who may upload", hint="write the token into a file of yours with mode 0600"
        )
    try:
        with files.opened(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)) as fd:
            _refuse_shared(os.fstat(fd), file)
            return Token(_text(files.read_fd(fd, _LIMIT, shown(file)), file), file)
    except OSError as error:
        raise BadToken(f"{shown(file)} cannot be read: {error.strerror}") from error
    except files.Unreadable as failure:
        raise BadToken(failure.what) from failure


def _refuse_shared(found: os.stat_result, file: str) -> None:
    # The group's bits are also the mask of an access list: where they are empty, no list lets anybody in.
    if stat.S_ISREG(found.st_mode) and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        word = shell_word(file)
        raise BadToken(
            f"{shown(file)} is not yours alone (owner uid {found.st_uid}, mode {found.st_mode & 0o7777:04o})",
            hint="who can read it can act in that account: if somebody else could, make a new token; then: "
            f"chown {os.geteuid()} {word} && chmod 600 {word}",
        )


def _text(data: bytes, file: str) -> str:
    text = data.decode("latin-1").strip()
    if not _CHARACTERS.fullmatch(text):
        raise BadToken(
            f"{shown(file)} holds {'nothing' if not text else 'more than a token'}",
            hint="it should hold the token alone, on one line",
        )
    return text
