"""The dashboard inside tmux, as it is run over SSH: what it copies is in tmux's buffer."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE, until
from tests.terminal.pty_terminal import ROOT, Terminal

pytestmark = pytest.mark.slow

TMUX = shutil.which("tmux")
PROGRAM = ("-m", "tests.terminal.program")
OSC_52 = b"\x1b]52;c;"


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs tmux on a server of its own, which ends with the test."""
    if TMUX is None:
        pytest.skip("tmux is not installed on this machine.")
    socket = str(tmp_path / "tmux")
    environ = {name: value for name, value in os.environ.items() if name not in {"TMUX", "NO_COLOR"}}

    def run(*words: str) -> str:
        done = subprocess.run(
            [TMUX, "-S", socket, "-f", os.devnull, *words], cwd=ROOT, env=environ, capture_output=True, text=True,
            check=True, timeout=PATIENCE,
        )  # fmt: skip
        return done.stdout

    yield run
    with suppress(subprocess.CalledProcessError):
        run("kill-server")


def screen_says(tmux: Callable[..., str], text: str) -> None:
    until(lambda: text in tmux("capture-pane", "-p", "-t", "jd"), f"{text!r} on the screen")


def test_what_is_copied_is_in_the_buffer_of_tmux(tmux: Callable[..., str]) -> None:
    quiet = f"exec 3>/dev/null 4</dev/null; exec {shlex.join([sys.executable, *PROGRAM, '3', '4', 'still'])}"
    tmux("new-session", "-d", "-s", "jd", "-x", "80", "-y", "24", f"sh -c {shlex.quote(quiet)}")
    screen_says(tmux, "game_platform")
    tmux("send-keys", "-t", "jd", "j", "y")
    screen_says(tmux, "(tmux buffer + OSC 52)")
    assert len(tmux("show-buffer").strip()) == 36


def test_outside_of_it_the_terminal_itself_is_told() -> None:
    report, write = os.pipe()
    read, orders = os.pipe()
    try:
        words = [*PROGRAM, str(write), str(read), "still"]
        with Terminal(words, environ={"TMUX": ""}, keep=(write, read)) as terminal:
            terminal.wait_for("game_platform")
            terminal.send("jy")
            terminal.wait_for("Copied 36 characters (OSC 52)")
            assert OSC_52 in terminal.raw
    finally:
        for descriptor in (report, write, read, orders):
            os.close(descriptor)
