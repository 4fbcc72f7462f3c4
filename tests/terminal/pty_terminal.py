"""A real pseudo-terminal with a program in it, and a screen that understands what the program writes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pyte

from tests.support.waiting import PATIENCE, rounds

ROOT = Path(__file__).parents[2]
SHELL = 'set -m; "$@"; exit $?'
"""A shell that gives each program the terminal, as a person's shell does."""
SHELL_IN_SHELL = "set -m; sh -c '" + SHELL + "' sh \"$@\"; echo 'the outer shell is back'; read line"


def _child(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii"))


class Terminal:
    """One program on a pty. `raw` is everything it wrote, `lines` what the screen shows.

    With a `shell`, this script of one controls the terminal and starts the program, as after a login; `process` is
    the shell.
    """

    def __init__(
        self, arguments: Sequence[str], *, size: tuple[int, int] = (80, 24), environ: Mapping[str, str] | None = None,
        keep: Sequence[int] = (), shell: str = "", cwd: Path = ROOT, python: Path = Path(sys.executable),
    ) -> None:  # fmt: skip
        self.raw = b""
        self._screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        self._set_size(slave, size)
        self.process = subprocess.Popen(
            [*(("setsid", "--ctty", "sh", "-c", shell, "sh") if shell else ()), python, *arguments],
            cwd=cwd, stdin=slave, stdout=slave, stderr=slave, pass_fds=keep, start_new_session=not shell,
            env={**os.environ, "TERM": "xterm-256color", **(environ or {})},
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._master >= 0:
            os.close(self._master)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def look_of(self, text: str) -> tuple[str, str, bool]:
        """The colours of a text on the screen, and whether they are reversed."""
        y = next(at for at, line in enumerate(self.lines) if text in line)
        character = self._screen.buffer[y][self.lines[y].index(text) + len(text) - 1]
        return character.fg, character.bg, character.reverse

    def send(self, keys: str) -> None:
        self.send_bytes(keys.encode())

    def send_bytes(self, data: bytes) -> None:
        os.write(self._master, data)

    def hang_up(self, *, told: bool = True) -> int:
        """Takes the terminal away, as a line that drops does, and returns the program's exit code.

        A program that is not `told` gets no SIGHUP: the terminal did not control it, or somebody shielded it.
        """
        os.close(self._master)
        self._master = -1
        if told:
            self.process.send_signal(signal.SIGHUP)
        return self.process.wait(PATIENCE)

    def kill_shell(self, depth: int = 0) -> None:
        """Has the shell die without a word, or one so deep within it, and waits until its program has ended too."""
        shell = self.process.pid
        for _ in range(depth):
            shell = _child(shell)
        handle = os.pidfd_open(_child(shell))
        try:
            os.kill(shell, signal.SIGKILL)
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            assert ended.poll(PATIENCE * 1000), "the program has outlived its terminal"
        finally:
            os.close(handle)

    def resize(self, width: int, height: int) -> None:
        self._screen.resize(height, width)
        self._set_size(self._master, (width, height))
        self.process.send_signal(signal.SIGWINCH)

    def read(self, timeout: float = 0.0) -> bytes:
        """What the program has written since the last reading; waits at most `timeout` for the first byte."""
        found = b""
        while select.select([self._master], [], [], timeout)[0]:
            try:
                piece = os.read(self._master, 65_536)
            except OSError:
                break
            if not piece:
                break
            found += piece
            timeout = 0.0
        self.raw += found
        self._stream.feed(found)
        return found

    def wait_for(self, there: str | Callable[[], bool]) -> None:
        """Reads until the screen shows a text or a condition holds."""
        for _ in rounds(lambda: f"{there!r} on this screen:\n{self.text}\n"):
            if there in self.text if isinstance(there, str) else there():
                return
            assert self.process.poll() is None, f"the program has ended; it wrote:\n{self.raw[-3000:]!r}"
            self.read(0.1)

    def wait_for_end(self) -> int:
        """Reads until the program has ended, and returns its exit code."""
        for _ in rounds(lambda: f"The end of the program, which shows:\n{self.text}\n"):
            if self.process.poll() is not None:
                break
            self.read(0.1)
        self.read(0.1)
        return self.process.returncode

    @staticmethod
    def _set_size(descriptor: int, size: tuple[int, int]) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
