"""A backend for the tasks of Django 6: `TASKS = {"default": {"BACKEND": "jobdeck.django.backend.JobdeckBackend"}}`.

Each function with `@task` is a task type of its own, named by its place, as `shop.tasks.send_mail`. Its jobs are
enqueued in the transaction of the caller and retried as those of any type; `OPTIONS` has options of `jobdeck.job` for
all of them, such as `{"max_attempts": 1}`.
"""

from __future__ import annotations

import builtins
from contextlib import contextmanager
from datetime import datetime
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.conf import settings
from django.tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskError
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json
from django.utils.module_loading import import_string
from pydantic import Field

from jobdeck.core.errors import ConfigurationError, Interrupted, LeaseLost, PermanentError, Snooze
from jobdeck.core.model import Json, Status
from jobdeck.core.queue.producers import results
from jobdeck.core.queue.producers.tasks import TaskFunction, job
from jobdeck.core.registry import AsyncJobContext, Done, JobContext, Payload
from jobdeck.django import database

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES: Final = {
    Status.PENDING: TaskResultStatus.READY,
    Status.RUNNING: TaskResultStatus.RUNNING,
    Status.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    Status.FAILED: TaskResultStatus.FAILED,
    Status.CANCELLED: TaskResultStatus.FAILED,
}
NOT_THE_END: Final = (Interrupted, LeaseLost, Snooze)
"""What ends a run that another one follows, also after the last attempt."""
RETURNED: Final = "returned"
"""The key of a task's return value in the output of its run."""
_types: dict[str, TaskFunction[Arguments, Any]] = {}
"""The types of the tasks that were declared, by their place."""


class Arguments(Payload):
    """The payload of all tasks."""

    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)


class JobdeckBackend(BaseTaskBackend):
    """Enqueues tasks as jobs; workers run them."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def validate_task(self, task: Task) -> None:
        """Django calls it for each task that is declared, which makes the task's type known to workers.

        Raises:
            InvalidTask: Django or Jobdeck refuses the task or the options of the backend.
        """
        super().validate_task(task)
        if task.module_path in _types:
            return
        label = task.name.replace("_", " ").capitalize()
        try:
            declared = job(task.module_path, payload=Arguments, **{"label": label, **self.options})
            _types[task.module_path] = declared(_handler(task, self.alias))
        except (ConfigurationError, TypeError) as error:
            raise InvalidTask(f"The task {task.module_path} is no task type of Jobdeck: {error}") from None

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Enqueues a job in the transaction of the database that holds the queue.

        Raises:
            InvalidTask: as `validate_task`.
            ConfigurationError: that database is no Postgres.
            Refused: the database rejects the job.
        """
        self.validate_task(task)
        run_at = task.run_after
        if run_at is not None and timezone.is_naive(run_at):
            # Django lets a naive time in without USE_TZ alone, when all times of a project are of its TIME_ZONE.
            run_at = timezone.make_aware(run_at, timezone.get_default_timezone())
        given = Arguments(args=normalize_json(list(args)), kwargs=normalize_json(kwargs))
        ticket = _types[task.module_path].enqueue(database.connection(), given, run_at=run_at, priority=task.priority)
        made = _result(task, self.alias, str(ticket.job_id), given, TaskResultStatus.READY, timezone.now())
        task_enqueued.send(type(self), task_result=made)
        return made

    def get_result(self, result_id: str) -> TaskResult:
        """Reads a job and its runs, also within a transaction.

        Raises:
            TaskResultDoesNotExist: no job has this id, or it is no job of a task that can be imported.
        """
        try:
            found = results.state(database.connection(), UUID(result_id))
            task = None if found is None else import_string(found["task_type"])
        except (ValueError, ImportError):
            found = task = None
        if found is None or not isinstance(task, Task):
            raise TaskResultDoesNotExist(result_id)
        return _read(task, self.alias, found)


def _handler(task: Task, alias: str) -> Any:
    """What runs the jobs of a task."""
    if iscoroutinefunction(task.func):

        async def arun(given: Arguments, ctx: AsyncJobContext) -> Done:
            with _signals(task, alias, given, ctx) as running:
                return _done(running, await task.func(*_context(running), *given.args, **given.kwargs))

        return arun

    def run(given: Arguments, ctx: JobContext) -> Done:
        with _signals(task, alias, given, ctx) as running:
            return _done(running, task.func(*_context(running), *given.args, **given.kwargs))

    return run


def _context(running: TaskResult) -> list[TaskContext]:
    return [TaskContext(task_result=running)] if running.task.takes_context else []


def _done(running: TaskResult, value: Any) -> Done:
    object.__setattr__(running, "_return_value", normalize_json(value))
    return Done({RETURNED: running._return_value})  # noqa: SLF001 -- where Django keeps it


@contextmanager
def _signals(task: Task, alias: str, given: Arguments, ctx: JobContext | AsyncJobContext) -> Iterator[TaskResult]:
    """The result of a task that runs, with Django's signals around: of its end, after the last attempt alone."""
    sender = type(task_backends[alias])
    running = _result(task, alias, str(ctx.job_id), given, TaskResultStatus.RUNNING, None)
    _set(running, started_at=timezone.now(), last_attempted_at=timezone.now())
    running.worker_ids.extend([""] * ctx.attempt)  # Django counts them as attempts
    task_started.send(sender, task_result=running)
    try:
        yield running
    except BaseException as error:
        last = ctx.attempt >= ctx.job.max_attempts and not isinstance(error, NOT_THE_END)
        if last or isinstance(error, PermanentError):
            _set(running, status=TaskResultStatus.FAILED, finished_at=timezone.now())
            running.errors.append(_error(type(error).__name__, None))
            task_finished.send(sender, task_result=running)
        raise
    _set(running, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now())
    task_finished.send(sender, task_result=running)


def _result(
    task: Task, alias: str, job_id: str, given: Arguments, status: TaskResultStatus, enqueued: datetime | None
) -> TaskResult:
    return TaskResult(
        task=task, id=job_id, status=status, enqueued_at=enqueued, started_at=None, finished_at=None,
        last_attempted_at=None, args=given.args, kwargs=given.kwargs, backend=alias, errors=[], worker_ids=[],
    )  # fmt: skip


def _read(task: Task, alias: str, found: Json) -> TaskResult:
    """What Django knows of a task, from a job and its runs."""
    status = STATES[Status(found["status"])]
    given = Arguments.model_validate(found["payload"])
    made = _result(task, alias, found["id"], given, status, _time(found["created_at"]))
    runs = found["runs"]
    for run in runs:
        made.worker_ids.append(run["worker_id"] or "")
        if run["error_kind"]:
            made.errors.append(_error(run["error_kind"], run["traceback"] or run["error"]))
    starts = [_time(run["started_at"]) for run in runs]
    if status == TaskResultStatus.RUNNING:
        made.worker_ids.append(found["locked_by"] or "")
        starts.append(_time(found["started_at"]))
    if starts:
        _set(made, started_at=starts[0], last_attempted_at=starts[-1])
    if made.is_finished:
        _set(made, finished_at=_time(runs[-1]["finished_at"] if runs else found["completed_at"]))
    if status == TaskResultStatus.SUCCESSFUL and found["output"]:
        _set(made, _return_value=found["output"].get(RETURNED))
    return made


def _error(kind: str, traceback: str | None) -> TaskError:
    """`kind` is the name of the class of an exception, whose module only its traceback has."""
    place = f"builtins.{kind}" if hasattr(builtins, kind) else kind
    last = (traceback or "").rstrip().rpartition("\n")[2].partition(":")[0]
    return TaskError(exception_class_path=last if last.endswith(f".{kind}") else place, traceback=traceback or "")


def _time(text: str | None) -> datetime | None:
    """A time as Django has them in this project: naive without USE_TZ."""
    moment = None if text is None else datetime.fromisoformat(text)
    return moment if moment is None or settings.USE_TZ else timezone.make_naive(moment, timezone.get_default_timezone())


def _set(made: TaskResult, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(made, name, value)
