"""The slots of handlers with `isolation="process"`: a thread each, with a process that runs the jobs."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from jobdeck.core.errors import JobFailure, LeaseLost, PermanentError
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import around
from jobdeck.core.worker.context import RunContext, Stop
from jobdeck.core.worker.slots.child import POSITION_SIGNAL, Channel, job_to_json
from jobdeck.core.worker.slots.threads import ThreadSlots

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterable

    from jobdeck.core.model import FinishedRun, Json
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import JobType
    from jobdeck.core.settings import Settings
    from jobdeck.core.worker.executor import Executor

LOOK_SECONDS = 0.1
POSITION_SECONDS = 2.0
"""How long a process that is killed may take to say where it is."""
PAUSE_SECONDS = 0.1
"""A process that has said nothing more for this long has said where it is."""
GRACE_SECONDS = 3.0
"""The time that a handler gets to stop before its process is killed; shorter than what a worker that stops waits."""
LONGEST_OUTPUT = 4096
LONGEST_LINE = 16 * 1024
LONGEST_POSITION = 64 * 1024
PIPE_BYTES = 64 * 1024
"""What a pipe holds: a run that has ended has printed no more than this that was not read yet."""
START = "import sys; sys.path[:] = sys.argv[2:]; from jobdeck.core.worker.slots.child import main; main()"
"""The program of a child. Its import path is the worker's, and not in the environment of what its handlers start."""


class ProcessDied(JobFailure):
    """The process of a run ended before the run."""

    kind = "process_died"


class _Gone(Exception):
    """The process of a slot has ended."""


class ChildProcess:
    """The process of one slot, as the worker sees it. Only the slot's thread uses it."""

    def __init__(self, settings: Settings, database: Database, worker: str) -> None:
        ours, theirs = socket.socketpair()
        # The folder in which the worker started, if it is in the path: it may not be the current one of the child.
        path = [entry or str(Path.cwd()) for entry in sys.path]
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
            _Gone: the process has ended, and has said nothing more.
        """
        # `select.select` takes no handle above 1,023, and a worker with many async runs has those.
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        if self._output is not None:
            poll.register(self._output, select.POLLIN)
        ready = {handle for handle, _ in poll.poll(seconds * 1000)}
        printed = self._read() if self._output is not None and self._output.fileno() in ready else []
        if self._channel.fileno() not in ready:
            # What the handler has started may hold the other end of the socket.
            if not ready and self.has_ended:
                raise _Gone
            return [], printed
        try:
            return self._channel.receive(), printed
        except OSError:
            if printed:
                return [], printed
            raise _Gone from None

    def rest_of_output(self) -> list[str]:
        """The lines that are printed and were not read yet, the last one although it may not have ended."""
        lines: list[str] = []
        read = 0
        while self._output is not None and read < PIPE_BYTES and _is_readable(self._output.fileno()):
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

    def position(self) -> str:
        """Where the threads of the process are; empty if it does not say so soon."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(POSITION_SIGNAL)
        printed: list[str] = []
        last = time.monotonic() + POSITION_SECONDS
        with contextlib.suppress(_Gone):
            while (left := last - time.monotonic()) > 0 and sum(map(len, printed)) < LONGEST_POSITION:
                said, more = self.receive(min(left, PAUSE_SECONDS))
                if printed and not (said or more):
                    break
                printed += more
        return "\n".join(printed)

    def kill(self) -> None:
        """Kills the process and what it started, and waits until it is gone; safe to call from any thread."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)

    def end(self) -> int:
        """Kills the process and what it started, waits until it is gone, and returns its exit status."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        if self._output is not None:
            self._output.close()
        return status

    def status(self) -> int:
        """Waits for the end of a process that is gone, and returns its exit status."""
        try:
            return self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return self.end()
        finally:
            self.end()


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


class ProcessSlots(ThreadSlots):
    """Threads that each have a process, which starts with the first job and runs all others, until it is killed."""

    def __init__(
        self,
        executor: Executor,
        done: queue.SimpleQueue[RunContext | None],
        name: str,
        database: Database,
        settings: Settings,
    ) -> None:
        super().__init__(executor, done, settings.process_concurrency, name, run=self._run)
        self._database = database
        self._settings = settings
        self._own = threading.local()
        self._children: dict[RunContext, ChildProcess] = {}

    def time_out(self, context: RunContext) -> str | None:
        if context.stop in {Stop.TIMED_OUT, Stop.LOST}:
            return None
        context.must_stop(Stop.TIMED_OUT)
        return "a run took too long; its process is killed"

    def write_off(self, context: RunContext, report: FinishedRun, *, replace: bool = True) -> bool:
        """Kills the process before its run is reported: the job may run elsewhere from then on."""
        if (child := self._children.get(context)) is not None:
            child.kill()
        return super().write_off(context, report, replace=replace)

    def _work(self, line: queue.SimpleQueue[RunContext | None]) -> None:
        try:
            super()._work(line)
        finally:
            self._end_child()

    def _run(self, _job: object, context: RunContext) -> Any:
        return self._executor.run_elsewhere(context, lambda job_type: self._converse(context, job_type))

    def _end_child(self) -> None:
        child, self._own.child = getattr(self._own, "child", None), None
        if child is not None:
            child.end()

    def _converse(self, context: RunContext, job_type: JobType) -> Json:
        """Has the slot's process run a job, and returns the facts of its report."""
        if job_type.module in {"", "__main__"}:
            raise PermanentError(
                f"The handler of {job_type.task_type} is in no module that another process can import. "
                "Move it into a module, and name that in JOBDECK_HANDLERS."
            )
        child = self._child()
        self._children[context] = child
        child.send(
            job={
                "job": job_to_json(context.job),
                "module": job_type.module,
                "around": around.modules(),
                "plugin": job_type.plugin,
                "epoch": context.epoch,
            }
        )
        try:
            return self._follow(child, context)
        except _Gone:
            self._own.child = None
            _keep(context, child.rest_of_output())
            raise ProcessDied(_how_it_ended(child.status())) from None
        except BaseException:
            self._end_child()
            raise
        finally:
            del self._children[context]

    def _child(self) -> ChildProcess:
        """The process of this slot; a new one if there is none, or if it ended after its last job."""
        child: ChildProcess | None = getattr(self._own, "child", None)
        if child is not None and child.has_ended:
            self._end_child()
            child = None
        if child is None:
            child = self._own.child = ChildProcess(self._settings, self._database, self._name)
        # What the last handler left running may have printed since.
        child.rest_of_output()
        return child

    def _follow(self, child: ChildProcess, context: RunContext) -> Json:
        """Waits for the end of a run, keeps what it tells, and has it stopped where it must."""
        told: float | None = None
        while True:
            messages, printed = child.receive(LOOK_SECONDS)
            _keep(context, printed)
            for message in messages:
                if "done" in message:
                    _keep(context, child.rest_of_output())
                    context.stack = tuple((file, line, name) for file, line, name in message["stack"])
                    return dict(message["done"])
                self._note(child, context, message)
            if context.stop is not None and told is None:
                told = time.monotonic()
                child.send(stop=context.stop.name)
            if context.stop is Stop.TIMED_OUT:
                context.position = child.position()
                context.raise_if_cancelled()
            if context.stop is not None and told is not None:
                _give_up(context, time.monotonic() - told)

    def _note(self, child: ChildProcess, context: RunContext, message: Json) -> None:
        if "line" in message:
            level, text = message["line"]
            context.log.log(logging.getLevelNamesMapping().get(level, logging.INFO), "%s", text)
        elif "progress" in message:
            with contextlib.suppress(LeaseLost):
                context.progress(*message["progress"])
        elif "save" in message:
            try:
                context.save_checkpoint(message["save"])
                child.send(saved=True)
            except LeaseLost:
                child.send(saved=False)
            except Exception as error:  # noqa: BLE001 -- the handler gets it, as it would in a thread
                child.send(saved=safe_error(f"The checkpoint was not saved: {error}"))
        elif "unable" in message:
            raise ProcessDied(f"The process of the handler cannot load it: {message['unable']}")


def _is_readable(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def _keep(context: RunContext, printed: Iterable[str]) -> None:
    """Keeps the lines that a process printed in the log of its run."""
    for line in printed:
        if line.strip():
            context.keep_line("PRINTED", line)


def _give_up(context: RunContext, seconds: float) -> None:
    """Ends the wait for a handler that was asked to stop `seconds` ago, once it had time to do so."""
    if seconds >= GRACE_SECONDS:
        context.keep_line("WARNING", f"the handler did not stop within {GRACE_SECONDS:g} s; its process was killed")
        context.raise_if_cancelled()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        how = f"ended with status {status} before its run did. A handler must return or raise"
    elif -status == signal.SIGKILL:
        how = "was killed (SIGKILL), perhaps because the machine has too little memory"
    else:
        how = f"was ended by {signal.Signals(-status).name}; the run's log has what it printed"
    return f"The process of the handler {how}."
