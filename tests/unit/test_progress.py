"""Progress: a line that is drawn again on a real terminal, one a minute elsewhere, nothing that acts on either."""

import io
import os
import pty
import sys
import termios
import threading
from fcntl import ioctl
from struct import pack

import pytest

from persist import progress as progress_
from persist.progress import Progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A real terminal, 60 columns wide, and what was written to it."""

    def __init__(self, columns: int = 60) -> None:
        self.above, below = pty.openpty()
        ioctl(below, termios.TIOCSWINSZ, pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(below, "w")

    def text(self) -> str:
        self.stream.flush()
        os.set_blocking(self.above, False)
        try:
            return os.read(self.above, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        self.stream.close()
        os.close(self.above)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal(120)


def test_a_terminal_gets_one_line_that_is_drawn_again_and_taken_away(terminal: Terminal) -> None:
    clock = Clock()
    progress = Progress("ada: sync", total_files=200, total_bytes=10_000_000, stream=terminal.stream, clock=clock)
    progress.add(10, 500_000)
    assert terminal.text() == ""  # short work shows nothing
    clock.now += 2
    progress.add(90, 4_500_000)
    assert terminal.text() == "\rada: sync: 100 of 200 files, 5.0 MB of 10.0 MB, 2.5 MB/s, 2 s left\x1b[K"
    progress.add(1, 1)
    assert terminal.text() == ""  # ten times a second at most
    clock.now += 0.2
    progress.sent(2_000_000)
    assert ", 2.0 MB sent, " in terminal.text()
    progress.close()
    assert terminal.text() == "\r\x1b[K"
    clock.now += 9
    progress.add(1, 1)
    assert terminal.text() == ""
    terminal.close()


def test_a_line_never_wraps_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    narrow, clock = Terminal(20), Clock()
    progress = Progress("ada: sync", stream=narrow.stream, clock=clock)
    clock.now += 1
    progress.add(1_000_000, 10**12)
    assert narrow.text() == "\rada: sync: 1,000,00\x1b[K"
    narrow.close()


def test_a_hidden_line_comes_back_by_itself(terminal: Terminal) -> None:
    clock = Clock()
    progress = Progress("x", stream=terminal.stream, clock=clock)
    progress.hide()
    assert terminal.text() == ""
    clock.now += 1
    progress.add(1, 1)
    terminal.text()
    progress.hide()
    progress.hide()
    assert terminal.text() == "\r\x1b[K"
    clock.now += 1
    progress.add(1, 1)
    assert terminal.text().startswith("\rx: 2 files")
    terminal.close()


def test_without_a_terminal_there_is_one_line_a_minute() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress("persist: ada: restore", total_files=1000, stream=out, clock=clock) as progress:
        for _ in range(150):
            clock.now += 1
            progress.add(1, 1000)
    assert out.getvalue().splitlines() == [
        "persist: ada: restore: 60 of 1,000 files, 60.0 kB, 1.0 kB/s, 15 min 40 s left",
        "persist: ada: restore: 120 of 1,000 files, 120.0 kB, 1.0 kB/s, 14 min 40 s left",
    ]


def test_what_is_named_cannot_act_on_the_terminal(terminal: Terminal) -> None:
    clock = Clock()
    progress = Progress("ada\x1b]0;x\x07\n\u202e", stream=terminal.stream, clock=clock)
    clock.now += 1
    progress.add(1, 1)
    assert terminal.text() == "\rada\\x1b]0;x\\x07\\n\\u202e: 1 file, 1 B, 1 B/s\x1b[K"
    terminal.close()


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setenv("TERM", "dumb")
    clock = Clock()
    progress = Progress("x", stream=terminal.stream, clock=clock)
    clock.now += 61
    progress.add(1, 1)
    assert terminal.text() == "x: 1 file, 1 B, 0 B/s\r\n"
    terminal.close()


@pytest.mark.parametrize(("seconds", "left"), [(1, "9 s"), (100, "15 min 00 s"), (1000, "2 h 30 min")])
def test_the_time_left_is_said_as_people_say_it(seconds: float, left: str) -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("x", total_bytes=1000, stream=out, clock=clock)
    progress._due = 0
    clock.now += seconds
    progress.add(1, 100)
    assert out.getvalue().rstrip().endswith(f", {left} left")


def test_more_than_was_expected_leaves_no_time() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("x", total_files=1, stream=out, clock=clock)
    progress._due = 0
    clock.now += 1
    progress.add(5, 5)
    assert "0 s left" in out.getvalue()


class Gone(io.StringIO):
    """Text that goes straight to a pipe: nothing is left in a buffer for later."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.pipe, self.tried = pipe, 0

    def write(self, text: str) -> int:
        self.tried += 1
        return os.write(self.pipe, text.encode())


def test_a_reader_that_went_away_does_not_stop_the_work() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    clock = Clock()
    stream = Gone(writing)
    progress = Progress("x", stream=stream, clock=clock)
    for _ in range(3):
        clock.now += 61
        progress.add(1, 1)
    progress.close()
    os.close(writing)
    assert stream.tried == 1
    closed = io.StringIO()
    closed.close()
    progress = Progress("x", stream=closed, clock=clock)
    clock.now += 61
    progress.add(1, 1)


def test_no_standard_error_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    clock = Clock()
    progress = Progress("x", clock=clock)
    clock.now += 61
    progress.add(1, 1)
    progress.close()


def test_a_line_comes_each_minute_also_while_nothing_comes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_, "_LINE", 0.05)
    out, before = io.StringIO(), threading.active_count()
    with Progress("x", stream=out) as progress:
        progress.add(1, 1)
        for _ in range(200):
            if out.getvalue().count("\n") >= 2:
                break
            threading.Event().wait(0.02)
    lines = out.getvalue().splitlines()
    assert len(lines) >= 2
    assert lines[0].startswith("x: 1 file, 1 B, ")
    assert threading.active_count() == before


def test_work_that_begins_again_is_counted_from_there() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("x", stream=out, clock=clock)
    progress.add(70, 7000)
    clock.now += 30
    progress.expect(10, 1000)
    clock.now += 30
    progress.add(5, 500)
    assert out.getvalue() == "x: 5 of 10 files, 500 B of 1.0 kB, 16 B/s, 30 s left\n"


def test_the_rate_of_a_limited_sync_is_of_what_is_sent() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("x", rates_sent=True, stream=out, clock=clock)
    progress.sent(100)
    clock.now += 100
    progress.add(5, 5_000_000)
    assert out.getvalue() == "x: 5 files, 5.0 MB, 100 B sent, 1 B/s\n"


@pytest.mark.parametrize(("unit", "said"), [("pack", "x: 3 packs, 5 B, 0 B/s\n"), ("", "x: 5 B, 0 B/s\n")])
def test_what_is_counted_is_named(unit: str, said: str) -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("x", unit=unit, stream=out, clock=clock)
    clock.now += 61
    progress.add(3, 5)
    assert out.getvalue() == said


def test_many_threads_may_tell_at_once() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("x", stream=out, clock=clock)
    threads = [threading.Thread(target=lambda: [progress.add(1, 2) for _ in range(3000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 60
    progress.add(0, 0)
    assert out.getvalue().startswith("x: 12,000 files, 24.0 kB, ")
