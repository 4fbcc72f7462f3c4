"""The process that runs the jobs of one slot with `isolation="process"`, and how it talks with its worker.

The worker starts it with one end of a socket and its own import path. A message is a line with a JSON object, whose key
says what it is. From the worker: `start` (once), `job`, `stop`, `answer`. From here, each with the token of its `run`:
`begun` (the handler is about to run), `line` of the run's log, `progress`, `save` of a checkpoint, `promised` (the run
has ended by `ctx.finish_in`), `lost`, `done` with the facts of the report, `unable`. The worker answers `save` and
`promised`.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import math
import os
import queue
import resource
import select
import signal
import socket
import sys
import threading
from contextvars import Context
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakValueDictionary

from jobdeck.core.errors import JobdeckError, LeaseLost
from jobdeck.core.logs import quiet_loggers
from jobdeck.core.model import ClaimedJob, FinishedRun, Json, RunOutcome
from jobdeck.core.postgres.database import Database
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Registry, around, registered
from jobdeck.core.settings import Settings
from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import Executor
from jobdeck.core.worker.runs.tracing import recorder_of
from jobdeck.core.worker.slots import forks

if TYPE_CHECKING:
    from collections.abc import Iterable


FLUSH_SECONDS = 0.1
"""How often log lines and progress are sent, so that a handler may report each of a million items."""
CHUNK = 1 << 16
POSITION_SIGNAL = signal.SIGUSR2
"""Makes the process print where its threads are, even while one of them keeps the interpreter."""
LINES_KEPT = 1000


def readable(seconds: float, *handles: int) -> set[int]:
    """Those of these handles that have data to read, or whose other end was closed, within `seconds`."""
    # Not `select.select`, which takes no handle above 1,023, and a worker with many async runs has those.
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return {handle for handle, _ in poll.poll(seconds * 1000)}


class Channel:
    """One end of the socket between a worker and a child. One thread receives; any may send."""

    def __init__(self, own: socket.socket) -> None:
        self._socket = own
        self._rest = b""
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends one message.

        Raises:
            OSError: the other side is gone.
        """
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._socket.sendall(line)

    def receive(self) -> list[Json]:
        """The messages that are there; waits if there is none, or only a part of one was received.

        Raises:
            OSError: the other side is gone.
        """
        chunk = self._socket.recv(CHUNK)
        if not chunk:
            raise BrokenPipeError("the other side is gone")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self._socket.close()


def job_to_json(job: ClaimedJob) -> Json:
    """A claimed job as JSON; `job_from_json` is the way back."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in job._asdict().items()
    }


def job_from_json(found: Json) -> ClaimedJob:
    times = {name: datetime.fromisoformat(found[name]) for name in ("due_at", "claimed_at")}
    return ClaimedJob(**{**found, **times, "id": UUID(found["id"])})


class ChildContext(RunContext):
    """The context of a run in a child: what it tells goes to the worker, and is kept there."""

    def __init__(self, job: ClaimedJob, resources: RunResources, epoch: float, channel: Channel) -> None:
        super().__init__(job, resources, epoch, math.inf)
        self._channel = channel
        self._news: list[tuple[str, str]] = []
        self._sent: object = None
        self._news_lock = threading.Lock()
        self._asking = threading.Lock()
        self._process = os.getpid()
        self.answers: queue.SimpleQueue[bool | str] = queue.SimpleQueue()
        """The worker's answers: whether the run holds its job, or what went wrong."""

    def keep_line(self, level: str, message: str) -> None:
        with self._news_lock:
            self._news.append((level, message))
            del self._news[:-LINES_KEPT]

    def store(self, checkpoint: Json) -> bool:
        self._ask(save=checkpoint)
        return True

    def note_promise(self, run: FinishedRun, recorded: RunOutcome) -> None:
        super().note_promise(run, recorded)
        # Before the handler can commit: its worker would take the run for lost when the job is no longer held.
        self._ask(promised=run.outcome)

    def found_lost(self) -> LeaseLost:
        self._tell(lost=True)
        return super().found_lost()

    def flush(self) -> None:
        """Sends the log lines and the progress that are new."""
        with self._news_lock:
            news, self._news = self._news, []
            for level, text in news:
                self._tell(line=[level, text])
            if self._progress is not self._sent:
                self._sent = self._progress
                self._tell(progress=self._progress)

    def renew_lock(self) -> None:
        """Makes the log usable in a forked process: a thread that is not there may have held its lock."""
        self._news_lock = threading.Lock()

    def _tell(self, **message: Any) -> None:
        self._channel.send(run=self.job.run_token, **message)

    def _ask(self, **message: Any) -> None:
        """Sends a message and waits for the worker's answer.

        Raises:
            LeaseLost: the run no longer holds its job.
            JobdeckError: the worker could not do what the message asks for, or this is a forked process.
        """
        if os.getpid() != self._process:
            raise JobdeckError(
                "A process that the handler forks cannot save a checkpoint or end the run: the answer would come to "
                "the handler. Let it return what it found."
            )
        with self._asking:
            self._tell(**message)
            answer = self.answers.get()
        if isinstance(answer, str):
            raise JobdeckError(answer)
        if not answer:
            raise self.found_lost()


class Child:
    """The process: one thread runs jobs, one listens to the worker and sends what is new."""

    def __init__(self, channel: Channel, start: Json) -> None:
        self._channel = channel
        self._worker = os.getppid()
        settings = Settings.model_validate(start["settings"])
        database = Database(start["url"], application_name="jobdeck process", schema=start["schema"], max_size=2)
        self._resources = RunResources(settings, database)
        self._resources.worker_id = start["worker"]
        self._jobs: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._current: ChildContext | None = None
        self._contexts: WeakValueDictionary[int, ChildContext] = WeakValueDictionary()
        """The runs by their tokens, also earlier ones whose threads go on and wait for an answer."""
        self._stop: Stop | None = None
        """Why the job that was sent last must stop, also while its module is imported."""
        os.register_at_fork(after_in_child=self._renew_lock)

    def work(self) -> None:
        """Runs jobs until the worker is gone."""
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        while True:
            asked = self._jobs.get()
            try:
                executor = self._executor(asked)
            except BaseException as error:  # noqa: BLE001 -- a module may raise anything while it is imported
                why = safe_error(f"{type(error).__name__}: {error}")
                self._channel.send(run=asked["job"]["run_token"], unable=why)
                continue
            context = ChildContext(job_from_json(asked["job"]), self._resources, asked["epoch"], self._channel)
            self._contexts[context.job.run_token] = self._current = context
            context.stop = self._stop
            context.trace = asked["trace"]
            self._channel.send(run=context.job.run_token, begun=True)
            # Empty, as that of a thread: modules may have set the context of `decimal`, which runs would share.
            report = Context().run(executor.run, context.job, context)
            self._current = None
            context.flush()
            self._channel.send(run=report.run_token, done=_facts(report), stack=context.stack)
            if executor.recorder is not None:
                executor.recorder.flush_soon()

    def _renew_lock(self) -> None:
        if self._current is not None:
            self._current.renew_lock()

    def _executor(self, asked: Json) -> Executor:
        around.import_plain(asked["around"])
        importlib.import_module(asked["module"])
        found = registered(asked["job"]["task_type"])
        known = Registry([replace(found, plugin=asked["plugin"])])
        return Executor(known, self._resources, recorder_of(self._resources.settings))

    def _listen(self) -> None:
        try:
            while os.getppid() == self._worker:
                if readable(FLUSH_SECONDS, self._channel.fileno()):
                    self._note(self._channel.receive())
                if (context := self._current) is not None:
                    context.flush()
        finally:
            end()

    def _note(self, messages: Iterable[Json]) -> None:
        for message in messages:
            if "job" in message:
                self._stop = None
                self._jobs.put(message["job"])
            elif "stop" in message:
                # Before `_current` is read: `work` sets that first, and reads this afterwards.
                self._stop = Stop[message["stop"]]
                if (context := self._current) is not None:
                    context.stop = self._stop
            elif "answer" in message and (context := self._contexts.get(message["run"])) is not None:
                context.answers.put(message["answer"])


def _facts(report: FinishedRun) -> Json:
    """The parts of a report that are the handler's; the worker knows the others."""
    theirs = {"job_id", "run_token", "started", "finished", "log", "progress", "trace"}
    return {name: value for name, value in report._asdict().items() if name not in theirs}


def end() -> None:
    """Ends this process, and what its handler has started: nobody would get the result, and the job runs elsewhere."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Runs the process until its worker closes the socket or dies."""
    # A segmentation fault writes its position into the run's log, and leaves no core in the worker's folder.
    faulthandler.enable()
    faulthandler.register(POSITION_SIGNAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A terminal or systemd signals the worker's children too; the worker decides what becomes of the job.
    for name in forks.SIGNALS:
        signal.signal(name, lambda *_: None)
    forks.install()
    handle = int(sys.argv[1])
    sys.argv[:] = sys.argv[:1]
    os.set_inheritable(handle, False)
    channel = Channel(socket.socket(fileno=handle))
    logging.getLogger().setLevel(logging.INFO)
    quiet_loggers()
    try:
        messages = channel.receive()
        while not messages:
            messages = channel.receive()
        child = Child(channel, messages[0]["start"])
        child._note(messages[1:])  # noqa: SLF001 -- of this module
        child.work()
    except OSError:
        end()
