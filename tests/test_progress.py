"""Progress: silent by default, lines in a log, bars where a terminal is."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from blendprune import progress
from blendprune.progress import Counted, LoggedProgress, Progress, TerminalProgress, stage


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass from one look at the clock to the next."""
    now, step = [0.0], [1.0]

    def monotonic():
        now[0] += step[0]
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", monotonic)
    return step


def test_the_base_class_is_silent(capsys):
    with Progress().heard() as silent:
        stage("loading")
        silent.steps("round")(1, 2)
        assert list(Counted("ab", "letter")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_every_stage_and_step():
    lines = []
    with LoggedProgress(lines.append).heard() as log:
        stage("loading")
        step = log.steps("round")
        step(1, 2)
        step(2, 2)
    assert lines == ["loading", "round 1 of 2 done", "round 2 of 2 done"]


def test_a_log_gets_details_every_ten_seconds_with_the_time_left(clock):
    lines, clock[0] = [], 4.0
    with LoggedProgress(lines.append).heard():
        assert list(Counted(range(7), "image")) == list(range(7))
    assert lines == ["image 3 of 7, 00:16 left", "image 6 of 7, 00:04 left"]


def test_quick_loops_leave_no_line(clock):
    lines = []
    with LoggedProgress(lines.append).heard():
        list(Counted(range(9), "image"))
    assert lines == []


def test_the_innermost_one_hears_and_the_outer_one_comes_back():
    outer, inner = [], []
    with LoggedProgress(outer.append).heard():
        with pytest.raises(ValueError), LoggedProgress(inner.append).heard():
            stage("in")
            raise ValueError
        stage("out")
    assert (outer, inner) == (["out"], ["in"])


def test_without_one_the_log_of_blendprune_hears(caplog):
    with caplog.at_level("INFO", logger="blendprune"):
        stage("loading")
    assert caplog.messages == ["loading"]


def test_without_a_terminal_stages_are_printed_and_steps_are_not(capsys):
    with TerminalProgress().heard() as terminal:
        stage("loading")
        step = terminal.steps("round")
        for done in (1, 2, 1, 2):  # two levels of two rounds each
            step(done, 2)
        list(Counted("ab", "letter"))
    assert capsys.readouterr() == ("- loading\n", "")


def test_on_a_terminal_bars_show_the_time_left_and_go_when_they_are_done():
    code = """
from time import sleep
from blendprune.progress import Counted, TerminalProgress, stage
with TerminalProgress().heard() as terminal:
    step = terminal.steps("round")
    for done in (1, 2):
        for _ in Counted(range(3), "image"):
            sleep(0.15)
        step(done, 2)
    stage("written")
"""
    shown = _on_a_terminal(sys.executable, "-c", code)
    for words in ("image:", "round:  50%", "1/2 [00:00<00:00"):
        assert words in shown
    # The last bar is wiped out before the next line.
    assert shown.rstrip().endswith("- written")


def _on_a_terminal(*command):
    """What a command shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    shown = b""
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        with open(ours, "rb", buffering=0) as file:
            while True:
                try:
                    shown += file.read(1 << 16) or b""
                except OSError:  # the other end is closed
                    break
        process.wait()
    return shown.decode()
