"""The task types there are: what each is called, takes and promises, and the function that runs it.

Forms, palette, command line and worker read this and nothing else, so that a job type is one file in
`handlers/`. Modules named by `JOBDECK_HANDLERS` join in the same way.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from jobdeck.core.errors import ConfigurationError, InvalidPayload, UnknownTaskType

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import psycopg

    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.programme.vendors import Clients
    from jobdeck.core.settings import Settings

    Admit = Callable[[Any, "Admission"], Mapping[str, str]]

Json = dict[str, Any]
Concurrency = Literal["type", "coach"] | None


class Payload(BaseModel):
    """The base of every payload model: camelCase in JSON, snake_case accepted, unknown keys refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Done:
    """The run did its work. `output` is kept with the run; `failed` counts items that did not succeed.

    A run with `failed` above zero is recorded as `partial`.
    """

    output: Json = field(default_factory=dict)
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Continue:
    """The run did a part; the job is due again after `delay` seconds and finds `checkpoint` then."""

    checkpoint: Json
    delay: float = 0.0
    output: Json = field(default_factory=dict)


Outcome = Done | Continue | None


class JobContext(Protocol):
    """What a handler is given beside its payload.

    `progress` and `checkpoint` raise `LeaseLost` once the run no longer holds its job; `idempotency_key` is
    the same for every attempt of one cycle of one job.
    """

    job: ClaimedJob
    log: logging.Logger
    settings: Settings
    clients: Clients
    dry_run: bool
    idempotency_key: str

    @property
    def db(self) -> psycopg.Connection[Any]:
        """An autocommit connection from the worker's pool, borrowed at first use and for the handler's thread."""

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Says how far the run is; cheap enough to call for every item."""

    @property
    def checkpoint(self) -> Json | None:
        """What the last `save_checkpoint` or `Continue` of this job left."""

    def save_checkpoint(self, checkpoint: Json) -> None:
        """Keeps a checkpoint at once, so that the next attempt goes on from here even after a crash."""

    def cancelled(self) -> bool:
        """Whether to stop now: an operator asked, the run timed out, or the worker is giving the job up."""

    def raise_if_cancelled(self) -> None:
        """Raises `Cancelled` or `TimedOut` where `cancelled` would be true."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a job that is to be enqueued is judged by, beside its payload."""

    conn: Connection
    settings: Settings
    recurring: bool


F = TypeVar("F", bound="Callable[..., Outcome]")


@dataclass(frozen=True, slots=True)
class RecurringDefault:
    """How often a task type is usually run, in minutes."""

    every_minutes: int


@dataclass(frozen=True, slots=True)
class JobType:
    """One task type. Times are in seconds; `concurrency` says which runs exclude each other.

    `preview`, where given, answers a payload with what a run would do, and changes nothing. `admit`, where given, is
    asked before a job is enqueued or changed, and says what is wrong, by field.
    """

    task_type: str
    run: Callable[[Any, JobContext], Outcome]
    label: str
    purpose: str
    payload: type[Payload]
    recurring: RecurringDefault | None = None
    timeout: float = 900.0
    max_attempts: int = 5
    retry_base: float | None = None
    retry_cap: float | None = None
    concurrency: Concurrency = None
    coach_filter: bool = False
    quick: bool = False
    preview: Callable[[Any, JobContext], Json] | None = None
    admit: Admit | None = None

    def parse(self, payload: Json) -> Payload:
        """Reads a payload into this type's model.

        Raises:
            InvalidPayload: with one sentence, and the problem of each field.
        """
        try:
            return self.payload.model_validate(payload)
        except ValidationError as error:
            raise InvalidPayload(*_explain(self.task_type, error)) from None

    def dump(self, payload: Payload) -> Json:
        """Writes a payload model as the JSON object that is stored: camelCase, unset fields left out."""
        return payload.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def concurrency_key(self, payload: Payload) -> str | None:
        """The key that no two running jobs may share, or None where runs of this type may overlap."""
        if self.concurrency is None:
            return None
        coach = getattr(payload, "coach_id", None) if self.concurrency == "coach" else None
        return f"{self.task_type}:{coach}" if coach else self.task_type


def _explain(task_type: str, error: ValidationError) -> tuple[str, dict[str, str]]:
    problems: dict[str, str] = {}
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"]) or "payload"
        problems[where] = "is not a field of this task type" if item["type"] == "extra_forbidden" else item["msg"]
    listed = "; ".join(f"{where}: {problem}" for where, problem in problems.items())
    return f"The payload does not fit {task_type}: {listed}.", problems


class NoArguments(Payload):
    """The model of a task type that takes no arguments."""


_registered: list[JobType] = []


def job(  # noqa: PLR0913 -- one keyword per fact of a task type
    task_type: str,
    *,
    label: str | None = None,
    purpose: str = "",
    payload: type[Payload] = NoArguments,
    recurring: int | None = None,
    timeout: float = 900.0,
    max_attempts: int = 5,
    retry_base: float | None = None,
    retry_cap: float | None = None,
    concurrency: Concurrency = None,
    coach_filter: bool = False,
    quick: bool = False,
    preview: Callable[[Any, JobContext], Json] | None = None,
    admit: Admit | None = None,
) -> Callable[[F], F]:
    """Registers a function `(payload, ctx) -> Done | Continue | None` as the handler of a task type.

    `recurring` is the usual interval in minutes; `timeout`, `retry_base` and `retry_cap` are in seconds, the
    latter two falling back to the settings where None.
    """

    def register(function: F) -> F:
        _registered.append(
            JobType(
                task_type=task_type,
                run=function,
                label=label or task_type.replace("_", " ").capitalize(),
                purpose=purpose,
                payload=payload,
                recurring=RecurringDefault(recurring) if recurring else None,
                timeout=timeout,
                max_attempts=max_attempts,
                retry_base=retry_base,
                retry_cap=retry_cap,
                concurrency=concurrency,
                coach_filter=coach_filter,
                quick=quick,
                preview=preview,
                admit=admit,
            )
        )
        return function

    return register


class Registry:
    """The task types of one process, by name."""

    def __init__(self, types: Iterable[JobType]) -> None:
        self._types: dict[str, JobType] = {}
        for job_type in types:
            if job_type.task_type in self._types:
                raise ConfigurationError(
                    f"Two handlers are registered for {job_type.task_type}: "
                    f"{self._types[job_type.task_type].run.__module__} and {job_type.run.__module__}. "
                    "Rename or leave out one of them (JOBDECK_HANDLERS)."
                )
            self._types[job_type.task_type] = job_type

    def __iter__(self) -> Iterator[JobType]:
        return iter(self._types.values())

    def __contains__(self, task_type: object) -> bool:
        return task_type in self._types

    def __len__(self) -> int:
        return len(self._types)

    @property
    def names(self) -> list[str]:
        """The task types, sorted."""
        return sorted(self._types)

    def get(self, task_type: str) -> JobType | None:
        """The job type, or None where no handler is registered."""
        return self._types.get(task_type)

    def require(self, task_type: str) -> JobType:
        """The job type.

        Raises:
            UnknownTaskType: naming the types that there are.
        """
        found = self._types.get(task_type)
        if found is None:
            raise UnknownTaskType(
                f"There is no task type {json.dumps(task_type)}. Known are: {', '.join(self.names) or 'none'}."
            )
        return found

    def validate(self, task_type: str, payload: Json) -> tuple[JobType, Payload]:
        """Checks type and payload as enqueue does.

        Raises:
            UnknownTaskType: no such type.
            InvalidPayload: the payload does not fit.
        """
        job_type = self.require(task_type)
        return job_type, job_type.parse(payload)

    def label(self, task_type: str) -> str:
        """What a person calls the type; the type itself where no handler is registered."""
        found = self._types.get(task_type)
        return found.label if found else task_type


def load(extra_modules: Iterable[str] = ()) -> Registry:
    """Imports every module of `jobdeck.core.handlers` and the extra ones, and returns what they registered.

    Raises:
        ConfigurationError: a module cannot be imported, or two handlers claim one type.
    """
    package = importlib.import_module("jobdeck.core.handlers")
    modules = [f"jobdeck.core.handlers.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    wanted = {*modules}
    for name in modules:
        importlib.import_module(name)
    for name in extra_modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(
                f"The handler module {name} cannot be imported ({error}). "
                "Check JOBDECK_HANDLERS or --handlers, and PYTHONPATH."
            ) from error
        wanted.add(name)
    return Registry(found for found in _registered if found.run.__module__ in wanted)


def registered(task_type: str) -> JobType:
    """The job type as a module that this process has imported registered it; the last one where there are several.

    Raises:
        UnknownTaskType: none did.
    """
    for found in reversed(_registered):
        if found.task_type == task_type:
            return found
    raise UnknownTaskType(
        f"No imported module registers the task type {json.dumps(task_type)}. Import the module with its @job first."
    )
