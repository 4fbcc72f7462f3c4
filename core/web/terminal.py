"""One process of the dashboard in a terminal of its own, which ends with the page that shows it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK: Final = 65_536
WIDTHS: Final = (20, 500)
HEIGHTS: Final = (5, 200)
OF_ANOTHER_TERMINAL: Final = ("TMUX", "TMUX_PANE", "STY", "COLUMNS", "LINES", "TERM_PROGRAM", "TERM_PROGRAM_VERSION")
"""Variables that describe the terminal in which the server was started."""


@dataclass
class Terminal:
    """The dashboard behind one page."""

    process: asyncio.subprocess.Process
    _master: int
    _output: asyncio.StreamReader
    _input: asyncio.StreamWriter
    _transports: tuple[asyncio.BaseTransport, ...]
    _size: tuple[int, int] = field(default=(0, 0))

    @classmethod
    async def start(cls, command: Sequence[str], changes: Mapping[str, str], *, width: int, height: int) -> Terminal:
        """Starts the command in a new terminal of this size. `changes` are variables of its environment.

        Raises:
            OSError: the process or its terminal cannot be made.
        """
        master, slave = pty.openpty()
        try:
            _resize(master, width, height)
            environ = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_TERMINAL}
            process = await asyncio.create_subprocess_exec(
                *command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                env={**environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **changes},
            )  # fmt: skip
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return await cls._connected(process, master)

    @classmethod
    async def _connected(cls, process: asyncio.subprocess.Process, master: int) -> Terminal:
        loop = asyncio.get_running_loop()
        output = asyncio.StreamReader(limit=CHUNK)
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(os.dup(master), "rb", 0)
        )
        writing, flow = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(os.dup(master), "wb", 0)
        )
        sink = asyncio.StreamWriter(writing, flow, None, loop)
        return cls(process, master, output, sink, (reading, writing))

    async def read(self) -> bytes:
        """What the dashboard writes next; nothing once it has ended."""
        try:
            return await self._output.read(CHUNK)
        except OSError:  # Linux reports the end of a terminal as an error
            return b""

    async def write(self, typed: bytes) -> None:
        """Hands on what was typed, as fast as the dashboard reads it."""
        self._input.write(typed)
        with suppress(OSError):
            await self._input.drain()

    def resize(self, width: int, height: int) -> None:
        """Changes the size of the terminal, within limits."""
        size = _within(width, WIDTHS), _within(height, HEIGHTS)
        if size == self._size:
            return
        self._size = size
        _resize(self._master, *size)
        # The kernel tells a terminal's foreground process only, and this terminal has none.
        self._send(signal.SIGWINCH)

    async def end(self, patience: float) -> None:
        """Closes the terminal, and waits for the process. After `patience` seconds it is killed."""
        for transport in self._transports:
            transport.close()
        with suppress(OSError):
            os.close(self._master)
        self._send(signal.SIGHUP)
        try:
            await asyncio.wait_for(self.process.wait(), patience)
        except TimeoutError:
            self._send(signal.SIGKILL)
            await self.process.wait()

    def _send(self, number: signal.Signals) -> None:
        """Sends a signal, if the process has not ended. `send_signal` would take its exit code from the event loop."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


def _resize(master: int, width: int, height: int) -> None:
    cells = struct.pack("HHHH", _within(height, HEIGHTS), _within(width, WIDTHS), 0, 0)
    fcntl.ioctl(master, termios.TIOCSWINSZ, cells)


def _within(number: int, limits: tuple[int, int]) -> int:
    return min(max(number, limits[0]), limits[1])
