"""The slots of handlers with `isolation="process"`: a thread each, with a process that runs the jobs."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import Cancelled, JobFailure, LeaseLost, PermanentError
from jobdeck.core.model import FinishedRun, Json, RunOutcome
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import JobType, around
from jobdeck.core.worker.context import RunContext, Stop
from jobdeck.core.worker.slots.child import job_to_json
from jobdeck.core.worker.slots.child_process import POSITION_SECONDS, ChildProcess, ProcessGone
from jobdeck.core.worker.slots.threads import ThreadSlots, Waiting

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterable

    from jobdeck.core.worker.executor import Executor

LOOK_SECONDS = 0.1
GRACE_SECONDS = 3.0
"""The time that a handler gets to stop before its process is killed; shorter than what a worker that stops waits."""
SPARE_SECONDS = 1.0
"""The watchdog kills a process this much later than the slot's thread would, which may wait for the database."""
ENDED = "The run has ended. Its threads cannot save a checkpoint or end it again."


class ProcessDied(JobFailure):
    """The process of a run ended before the run."""

    kind = "process_died"


class ProcessSlots(ThreadSlots):
    """Threads that each have a process, which starts with the first job and runs all others, until it is killed."""

    def __init__(self, executor: Executor, done: queue.SimpleQueue[RunContext | None], name: str) -> None:
        super().__init__(executor, done, executor.resources.settings.process_concurrency, name, run=self._run)
        self._own = threading.local()
        self._children: dict[RunContext, ChildProcess] = {}
        self._asked: dict[RunContext, float] = {}
        """When `look` first saw that a run must stop."""
        self._changing = threading.Lock()
        """Held while a process gets another run or none, and while `look` kills one."""

    @property
    def free(self) -> int:
        """None: a process may have to start first."""
        return 0

    def time_out(self, context: RunContext) -> str | None:
        if context.stop in {Stop.TIMED_OUT, Stop.LOST}:
            return None
        context.must_stop(Stop.TIMED_OUT)
        if context.starting:
            return "the process of a run did not start in time; it is killed"
        return "a run took too long; its process is killed"

    def _abandon(self, context: RunContext, *, replace: bool) -> None:
        """Kills the process before its run is reported: the job may run elsewhere from then on.

        The slot's thread discards its own result, which would be that of a killed process.
        """
        if (child := self._children.get(context)) is not None:
            child.kill()
        super()._abandon(context, replace=replace)

    def look(self, now: float) -> None:
        """Kills processes that should be gone: the threads of their slots may wait for the database."""
        super().look(now)
        for context, child in list(self._children.items()):
            if context.stop is None:
                continue
            allowed = POSITION_SECONDS if context.stop is Stop.TIMED_OUT else GRACE_SECONDS
            with self._changing:
                # A process that has its next run by now is left alone.
                if context not in self._children:
                    continue
                asked = self._asked.setdefault(context, now)
                if now - asked > allowed + SPARE_SECONDS and not child.killed:
                    child.kill(0)

    def _work(self, line: Waiting) -> None:
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
        _check_importable(job_type)
        used = getattr(self._own, "child", None) is not None
        try:
            return self._have_run(context, job_type)
        except ProcessDied:
            if not used or not context.starting or context.stop is not None:
                raise
        # The process died after its last job, and its end came too late to be seen. This job has not begun.
        return self._have_run(context, job_type)

    def _have_run(self, context: RunContext, job_type: JobType) -> Json:
        context.starting = True
        child = self._child()
        self._children[context] = child
        try:
            self._check_running(context)
            child.send(
                job={
                    "job": job_to_json(context.job),
                    "module": job_type.module,
                    "around": around.plain_names(),
                    "plugin": job_type.plugin,
                    "epoch": context.epoch,
                    "trace": context.trace,
                }
            )
            return self._follow(child, context)
        except ProcessGone:
            self._own.child = None
            _keep(context, child.rest_of_output())
            status = child.status()
            if child.killed:
                context.raise_if_cancelled()
            raise ProcessDied(_how_it_ended(status)) from None
        except BaseException:
            self._end_child()
            raise
        finally:
            with self._changing:
                del self._children[context]
                self._asked.pop(context, None)

    def _check_running(self, context: RunContext) -> None:
        """Ends a run that `write_off` has reported before it knew its process.

        Raises:
            Cancelled: the run has been reported.
        """
        if context not in self.running:
            raise Cancelled("The run was reported before its process began it.")

    def _child(self) -> ChildProcess:
        """The process of this slot; a new one if there is none, or if it ended after its last job."""
        child: ChildProcess | None = getattr(self._own, "child", None)
        if child is not None and child.has_ended:
            self._end_child()
            child = None
        if child is None:
            resources = self._executor.resources
            child = self._own.child = ChildProcess(resources.settings, resources.known_database(), self._name)
        # What the last handler left running may have printed since.
        child.rest_of_output()
        return child

    def _follow(self, child: ChildProcess, context: RunContext) -> Json:
        """Waits for the end of a run, keeps what it tells, and has it stopped where it must."""
        told: float | None = None
        while True:
            messages, printed = child.receive(LOOK_SECONDS)
            _keep(context, printed)
            if (done := _hear(child, context, messages)) is not None:
                _keep(context, child.rest_of_output())
                context.stack = tuple((file, line, name) for file, line, name in done["stack"])
                return dict(done["done"])
            if context.stop is not None and told is None:
                told = time.monotonic()
                child.send(stop=context.stop.name)
            if context.stop is Stop.TIMED_OUT:
                context.position, said = child.position()
                # Killed first: a checkpoint among what it said may wait for the database.
                child.kill()
                _hear(child, context, said)
                context.raise_if_cancelled()
            if context.stop is not None and told is not None:
                _give_up(context, time.monotonic() - told)


def _check_importable(job_type: JobType) -> None:
    """Refuses a run that another process would run without its handler, or without what goes around it.

    Raises:
        PermanentError: one of them is in no module.
    """
    what = None
    if job_type.module in {"", "__main__"}:
        what = f"The handler of {job_type.task_type}"
    elif any(name.startswith("__main__:") for name in around.plain_names()):
        what = "A middleware"
    if what is not None:
        raise PermanentError(
            f"{what} is in no module that another process can import. "
            "Move it into a module, and name that in JOBDECK_HANDLERS."
        )


def _hear(child: ChildProcess, context: RunContext, messages: Iterable[Json]) -> Json | None:
    """Takes in what the process of a run said; returns the message with its end, if that is there."""
    done: Json | None = None
    for message in messages:
        # A thread that an earlier run has left in the process says something of that run.
        if done is not None or message["run"] != context.job.run_token:
            if message.keys() & {"save", "promised"}:
                child.send(answer=ENDED, run=message["run"])
        elif "done" in message:
            done = message
        else:
            _note(child, context, message)
    return done


def _note(child: ChildProcess, context: RunContext, message: Json) -> None:
    if "line" in message:
        level, text = message["line"]
        context.log.log(logging.getLevelNamesMapping().get(level, logging.INFO), "%s", text)
    elif "begun" in message:
        # A run that was found late stays late.
        if context.stop is not Stop.TIMED_OUT:
            context.started = time.monotonic()
            context.starting = False
    elif "progress" in message:
        with contextlib.suppress(LeaseLost):
            context.progress(*message["progress"])
    elif "save" in message:
        child.send(answer=_saved(context, message["save"]), run=message["run"])
    elif "promised" in message:
        now = context.at(time.monotonic()).timestamp()
        ended = RunOutcome(message["promised"])
        context.promised = FinishedRun(context.job.id, context.job.run_token, ended, now, now)
        child.send(answer=True, run=message["run"])
    elif "lost" in message:
        context.found_lost()
    elif "unable" in message:
        raise ProcessDied(f"The process of the handler cannot load it: {message['unable']}")


def _saved(context: RunContext, checkpoint: Json) -> bool | str:
    """Saves a checkpoint; the answer is whether the run holds its job, or what went wrong."""
    try:
        context.save_checkpoint(checkpoint)
    except LeaseLost:
        return False
    except Exception as error:  # noqa: BLE001 -- the handler gets it, as it would in a thread
        return safe_error(f"The checkpoint was not saved: {error}")
    return True


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
        how = f"was ended by {_signal_name(-status)}; the run's log has what it printed"
    return f"The process of the handler {how}."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Most real-time signals have no name.
        return f"signal {number}"
