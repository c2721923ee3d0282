"""How far long work has come: on a terminal one line that is drawn again, elsewhere one line a minute. On stderr.

As a context it tells of itself each minute also while nothing comes on. Only numbers and what the caller names are
shown, never a name out of a home; any thread may tell of progress.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from town import terminal

_FIRST = 0.5  # seconds after which a line is drawn for the first time: short work shows none
_AGAIN = 0.1  # seconds between two drawings
_LINE = 60.0  # seconds between two lines where there is no terminal
_WIDTH = 80  # columns of a terminal that does not say


class Progress:
    """Counts files and bytes of one piece of work, and shows them with the rate and, with a total, the time left.

    `what` stands before the numbers (`persist: ada: sync`). Totals that are not known are None. `unit`: what is counted
    besides bytes, where it is not files (empty: nothing is). `rates_sent`: the rate is of what was sent.
    """

    def __init__(
        self,
        what: str,
        *,
        total_files: int | None = None,
        total_bytes: int | None = None,
        unit: str = "file",
        rates_sent: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_files, self.total_bytes = total_files, total_bytes
        self._what, self._clock = terminal.shown(what), clock
        self._unit, self._rates_sent = unit, rates_sent
        self._stream: TextIO | None = sys.stderr if stream is None else stream
        self._terminal = self._is_terminal()
        self._files = self._bytes = self._sent = 0
        self._lock = threading.Lock()
        self._began = self._counted_from = clock()
        self._due = self._began + (_FIRST if self._terminal else _LINE)
        self._drawn = False
        self._over = threading.Event()
        self._ticking: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        if not self._terminal:
            self._ticking = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def expect(self, files: int | None, bytes_: int | None) -> None:
        """The work begins, or begins again: so much is expected of it, None where nobody knows."""
        with self._lock:
            self.total_files, self.total_bytes = files, bytes_
            self._files = self._bytes = 0
            self._counted_from = self._clock()

    def add(self, files: int, bytes_: int) -> None:
        """So many files and bytes more are done."""
        with self._lock:
            self._files += files
            self._bytes += bytes_
            if self._clock() >= self._due:
                self._tell()

    def sent(self, bytes_: int) -> None:
        """So many bytes more are durable in the store."""
        with self._lock:
            self._sent += bytes_
            if self._clock() >= self._due:
                self._tell()

    def hide(self) -> None:
        """Take the line away, so that something else can be printed; it comes back by itself."""
        with self._lock:
            if self._drawn:
                self._write("\r\x1b[K")
            self._drawn = False

    def close(self) -> None:
        """Take the line away for good."""
        self.hide()
        with self._lock:
            self._stream = None
        self._over.set()
        if self._ticking is not None:
            self._ticking.join()
            self._ticking = None

    def _tick(self) -> None:
        """A line when it is due, also where nothing comes on."""
        while not self._over.wait(max(0.01, self._due - self._clock())):
            with self._lock:
                if self._stream is None:
                    return
                if self._clock() >= self._due:
                    self._tell()

    def _tell(self) -> None:
        if self._stream is None:
            return
        now = self._clock()
        self._due = now + (_AGAIN if self._terminal else _LINE)
        line = self._line(now)
        if self._terminal:
            self._write(f"\r{line[: _columns(self._stream) - 1]}\x1b[K")
            self._drawn = True
        else:
            self._write(f"{line}\n")

    def _line(self, now: float) -> str:
        seconds = max(now - self._counted_from, 0.001)
        said = self._units()
        size = terminal.size(self._bytes)
        said.append(f"{size} of {terminal.size(self.total_bytes)}" if self.total_bytes else size)
        if self._sent:
            said.append(f"{terminal.size(self._sent)} sent")
        rate = self._sent / max(now - self._began, 0.001) if self._rates_sent else self._bytes / seconds
        said.append(f"{terminal.size(int(rate))}/s")
        if (left := self._left(seconds)) is not None:
            said.append(f"{_duration(left)} left")
        return f"{self._what}: {', '.join(said)}"

    def _units(self) -> list[str]:
        if not self._unit:
            return []
        if self.total_files:
            return [f"{self._files:,} of {terminal.counted(self.total_files, self._unit)}"]
        return [terminal.counted(self._files, self._unit)]

    def _left(self, seconds: float) -> float | None:
        """Seconds that the rest takes at the rate so far: of bytes, and where none are expected, of files."""
        done, total = (self._bytes, self.total_bytes) if self.total_bytes else (self._files, self.total_files)
        if not total or not done:
            return None
        return max(0.0, seconds * (total - done) / done)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads any more: no reason to end the work
            self._stream = None

    def _is_terminal(self) -> bool:
        with suppress(ValueError, AttributeError):  # closed, or none at all
            return self._stream is not None and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        return False


def _columns(stream: TextIO) -> int:
    with suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH
    return _WIDTH


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
