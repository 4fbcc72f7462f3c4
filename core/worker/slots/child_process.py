"""The process of one slot, as its worker sees it: messages, what it prints, where it is, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from jobdeck.core.registry import folder
from jobdeck.core.worker.slots.child import POSITION_SIGNAL, Channel, readable

if TYPE_CHECKING:
    from jobdeck.core.model import Json
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings

POSITION_SECONDS = 2.0
"""How long a process that is killed may take to say where it is."""
PAUSE_SECONDS = 0.1
"""A process that has said nothing more for this long, after `OUTERMOST_FRAME`, has said where it is."""
END_SECONDS = 3.0
"""How long a process may take to end after it was killed, or after it closed its socket."""
LONGEST_OUTPUT = 4096
LONGEST_LINE = 16 * 1024
LONGEST_POSITION = 64 * 1024
PIPE_BYTES = 64 * 1024
"""What a pipe holds: a run that has ended has printed no more than this that was not read yet."""
START = "import sys; sys.path[:] = sys.argv[2:]; from jobdeck.core.worker.slots.child import main; main()"
"""The program of a child. Its import path is the worker's, and not in the environment of what its handlers start."""
OUTERMOST_FRAME = '  File "<string>", line 1 in <module>'
"""The frame of `START`: the last line that `faulthandler` prints, since it prints the oldest thread at the end. A busy
machine may let a process wait for longer than a pause between two lines."""


class ProcessGone(Exception):
    """The process of a slot has ended."""


class ChildProcess:
    """The process of one slot. Only the slot's thread uses it, but for `kill`."""

    def __init__(self, settings: Settings, database: Database, worker: str) -> None:
        ours, theirs = socket.socketpair()
        # The folder in which the worker started, if it is in the path: it may not be the current one of the child.
        path = [*(entry or str(Path.cwd()) for entry in sys.path), *folder.used()]
        with theirs:
            self._process = subprocess.Popen(
                # Without -P, Python would import from the current folder first.
                [sys.executable, "-P", "-u", "-c", START, str(theirs.fileno()), *path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C in a terminal is for the worker, and a kill takes what the handler started.
                start_new_session=True,
            )
        self.killed = False
        """Whether `kill` has ended the process."""
        self._channel = Channel(ours)
        self._output = self._process.stdout
        self._line = b""
        """What was printed of a line that has not ended."""
        self.send(start={"settings": plain(settings), "url": database.url, "schema": database.schema, "worker": worker})

    def send(self, **message: Any) -> None:
        """Sends a message; one to a process that has ended is dropped, since `receive` finds that out."""
        with contextlib.suppress(OSError):
            self._channel.send(**message)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def receive(self, seconds: float) -> tuple[list[Json], list[str]]:
        """What the process said, and the lines that it printed, within `seconds`; empty if it was silent.

        Raises:
            ProcessGone: the process has ended, and has said nothing more. What it has printed is left unread.
        """
        # Asked before the socket: a process that has ended by now says nothing later. And asked each time, since what
        # the handler has started may hold the other end of the socket, and may print for ever.
        ended = self.has_ended
        channel = self._channel.fileno()
        printing = [self._output.fileno()] if self._output is not None else []
        ready = readable(0 if ended else seconds, channel, *printing)
        said: list[Json] = []
        if channel in ready:
            try:
                said = self._channel.receive()
            except OSError:
                raise ProcessGone from None
        elif ended:
            raise ProcessGone
        return said, self._read() if ready.intersection(printing) else []

    def rest_of_output(self) -> list[str]:
        """The lines that are printed and were not read yet, the last one although it may not have ended."""
        lines: list[str] = []
        read = 0
        while self._output is not None and read < PIPE_BYTES and readable(0, self._output.fileno()):
            lines += self._read()
            read += LONGEST_OUTPUT
        rest, self._line = self._line, b""
        return [*lines, rest.decode(errors="replace")]

    def _read(self) -> list[str]:
        if self._output is None:
            return []
        data = os.read(self._output.fileno(), LONGEST_OUTPUT)
        if not data:
            self._output.close()
            self._output = None
        *lines, self._line = (self._line + data).split(b"\n")
        if not data or len(self._line) > LONGEST_LINE:
            lines.append(self._line)
            self._line = b""
        return [line.decode(errors="replace") for line in lines]

    def position(self) -> tuple[str, list[Json]]:
        """Where the threads of the process are, empty if it does not say so soon; and what it said meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(POSITION_SIGNAL)
        printed: list[str] = []
        said: list[Json] = []
        last = time.monotonic() + POSITION_SECONDS
        with contextlib.suppress(ProcessGone):
            while (left := last - time.monotonic()) > 0 and sum(map(len, printed)) < LONGEST_POSITION:
                more_said, more = self.receive(min(left, PAUSE_SECONDS))
                said += more_said
                if OUTERMOST_FRAME in printed and not (more_said or more):
                    break
                printed += more
        return "\n".join(printed), said

    def kill(self, seconds: float = END_SECONDS) -> None:
        """Kills the process and what it started, and waits up to `seconds` until it is gone.

        It is safe to call from any thread, and does nothing to a process that has ended.
        """
        if not self.has_ended:
            self.killed = True
            self._kill_group()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def end(self) -> int:
        """Kills the process and what it started, waits until it is gone, and returns its exit status."""
        self._channel.close()
        self._kill_group()
        status = self._process.wait()
        if self._output is not None:
            self._output.close()
            self._output = None
        return status

    def status(self) -> int:
        """The exit status of a process that is gone, or that has closed its socket and is killed if it goes on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        return self.end()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def plain(settings: Settings) -> Json:
    """The settings as JSON, with their secrets; only for the socket of a child."""
    return {
        name: value.get_secret_value()
        if isinstance(value, SecretStr)
        else str(value)
        if isinstance(value, Path)
        else value
        for name, value in settings.model_dump().items()
        if value is not None
    }
