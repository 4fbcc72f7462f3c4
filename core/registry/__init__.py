"""The task types of this process: name, payload, limits, and the function that runs a job.

The create form, the commands and the worker read only this, so a job type is one file: in a module that
`JOBDECK_HANDLERS` names, or in a handler module of a plugin.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic import ValidationError

from jobdeck.core.errors import ConfigurationError, UnknownTaskType, meant
from jobdeck.core.plugins import load_plugins
from jobdeck.core.registry import folder
from jobdeck.core.registry.checks import PER_KEY, SHARED_KEY, Isolation, check, is_async, misfit
from jobdeck.core.registry.code_values import CodeValues
from jobdeck.core.registry.handles import Handle, is_handler
from jobdeck.core.registry.handles import NoArguments as NoArguments
from jobdeck.core.registry.handles import Payload as Payload
from jobdeck.core.registry.job_context import AsyncJobContext as AsyncJobContext
from jobdeck.core.registry.job_context import Continue as Continue
from jobdeck.core.registry.job_context import Done as Done
from jobdeck.core.registry.job_context import JobContext as JobContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from jobdeck.core.postgres.database import Connection, Database
    from jobdeck.core.registry.around import Backoff
    from jobdeck.core.registry.job_context import Outcome as Outcome
    from jobdeck.core.settings import Settings

    Opener = Callable[[Settings, Database | None], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
    Admit = Callable[[Any, "Admission"], Mapping[str, str]]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Admission:
    """The facts for a type's `admit` function, in addition to the payload."""

    conn: Connection
    settings: Settings
    recurring: bool


NAME_MODULES: Final = "Name the modules that register them in JOBDECK_HANDLERS or --handlers."
NO_TYPES: Final = f"No task types. {NAME_MODULES}"


@dataclass(frozen=True, slots=True)
class JobType:
    """One task type. Times are in seconds, but the usual interval `recurring` in minutes.

    `concurrency` limits runs: with "type" one run of the type at a time, with "payload:KEY" one run per value of this
    payload key (a missing value counts as a value), with "key:NAME" one run at a time of all types that have this key;
    a type with "type" has its own name as key. `plugin` is the name of the type's plugin, if any.

    `preview` returns the effects that a run with a payload would have, and changes nothing. `admit` is called before a
    job is enqueued or edited, and returns the problems by field. `resources` opens what runs share, once in a process;
    without it, they have the resources of their plugin. `backoff` chooses the delay before a retry, from the number of
    the failed attempt and its error. With `is_async`, `run` is an `async def` function.
    With `isolation="process"`, runs are in processes of their own, which import `module` to register the type.
    `values` are limits and the like that hold where no operator has set others.
    """

    task_type: str
    run: Callable[[Any, Any], Outcome | Awaitable[Outcome]]
    label: str
    purpose: str
    payload: type[Payload]
    recurring: int | None = None
    timeout: float = 900.0
    max_attempts: int = 5
    retry_base: float | None = None
    retry_cap: float | None = None
    concurrency: str | None = None
    quick: bool = False
    preview: Callable[[Any, Any], Json] | None = None
    admit: Admit | None = None
    plugin: str = ""
    isolation: Isolation = "thread"
    resources: Opener | None = None
    playbook: str = ""
    backoff: Backoff | None = None
    module: str = ""
    values: CodeValues = field(default_factory=CodeValues)
    is_async: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", is_async(self.run))

    @property
    def kind(self) -> Literal["thread", "async", "process"]:
        """Where its runs are: in a thread, on the event loop, or in a process."""
        return "async" if self.is_async else self.isolation

    def parse(self, payload: Json) -> Payload:
        """Parses a payload into this type's model.

        Raises:
            InvalidPayload: the payload does not fit; `problems` gives the reasons by field.
        """
        try:
            return self.payload.model_validate(payload)
        except ValidationError as error:
            raise misfit(self.task_type, payload, error) from None

    def dump(self, payload: Payload) -> Json:
        """The JSON object that is stored for a payload model: camelCase, without unset fields."""
        return payload.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def concurrency_key(self, payload: Payload) -> str | None:
        """The key of which one job may run at a time, as job_key_by_rule of the schema has it; None if all may."""
        if self.concurrency is None:
            return None
        if self.concurrency.startswith(SHARED_KEY):
            return self.concurrency.removeprefix(SHARED_KEY)
        value = self.dump(payload).get(self.concurrency.removeprefix(PER_KEY))
        if isinstance(value, int) and abs(value) < LARGEST_IN_KEY:
            value = str(value).lower()
        return f"{self.task_type}:{value}" if isinstance(value, str) and value else self.task_type

    def field(self, key: str) -> str | None:
        """The model's field of a payload key; None if the type does not have the key."""
        return next((name for name, of in self.payload.model_fields.items() if (of.alias or name) == key), None)


LARGEST_IN_KEY: Final = 10**15


class Registration(NamedTuple):
    """A job type, the modules whose import registered it (innermost first), and the namespace of the innermost one."""

    job_type: JobType
    modules: tuple[str, ...]
    namespace: Json

    def belongs_to(self, name: str) -> bool:
        """Whether this module registers the type: itself, in a submodule, or in a module that it imports."""
        innermost = sys.modules.get(self.modules[0]) if self.modules else None
        if innermost is None or vars(innermost) is not self.namespace:
            # The module failed to import, or was removed and imported again.
            return False
        if any(module == name or module.startswith(f"{name}.") for module in self.modules):
            return True
        run = self.job_type.run
        return any(value is innermost or is_handler(value, run) for value in vars(sys.modules[name]).values())


registrations: list[Registration] = []
declarations: list[JobType] = []
"""The types that code declares without a handler, with what a producer must know of them."""


def register(made: JobType) -> JobType:
    """Registers a type with its handler, for the modules that are being imported.

    Raises:
        ConfigurationError: the parts of the type do not fit together; the message names the part.
    """
    namespaces = _being_imported()
    modules = tuple(str(namespace.get("__name__")) for namespace in namespaces)
    made = replace(made, module=modules[0] if modules else "")
    check(made)
    registrations.append(Registration(made, modules, namespaces[0] if namespaces else {}))
    return made


def declare(made: JobType) -> JobType:
    """Makes a type without a handler known to `registered`. Raises as `register`."""
    check(made)
    declarations.append(made)
    return made


def _being_imported() -> list[Json]:
    """The namespaces of the modules whose top-level code is running, innermost first."""
    found = []
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            found.append(frame.f_globals)
        frame = frame.f_back
    return found


def _place(handler: Callable[..., object]) -> str:
    """Where a handler is written, as file and line; its module where it is no function."""
    code = getattr(inspect.unwrap(handler), "__code__", None)
    return handler.__module__ if code is None else f"{code.co_filename}:{code.co_firstlineno}"


class Registry:
    """The task types of one process, by name."""

    def __init__(self, types: Iterable[JobType]) -> None:
        self._types: dict[str, JobType] = {}
        for job_type in types:
            if job_type.task_type in self._types:
                raise ConfigurationError(
                    f"Two handlers are registered for {job_type.task_type}: "
                    f"{_place(self._types[job_type.task_type].run)} and {_place(job_type.run)}. "
                    "Give one of the types another name, or remove its module (JOBDECK_HANDLERS)."
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
        """The job type; None if no handler is registered."""
        return self._types.get(task_type)

    def require(self, task_type: str) -> JobType:
        """The job type.

        Raises:
            UnknownTaskType: no handler is registered; the message lists the known types.
        """
        found = self._types.get(task_type)
        if found is None:
            known = f"Known types: {', '.join(self.names)}." if self.names else NO_TYPES
            raise UnknownTaskType(f"Unknown task type {json.dumps(task_type)}{meant(task_type, self.names)} {known}")
        return found

    def validate(self, task_type: str, payload: Json) -> tuple[JobType, Payload]:
        """Returns the job type and the parsed payload.

        Raises:
            UnknownTaskType: no such type.
            InvalidPayload: the payload does not fit.
        """
        job_type = self.require(task_type)
        return job_type, job_type.parse(payload)

    def label(self, task_type: str) -> str:
        """The type's name for people; the task type itself if no handler is registered."""
        found = self._types.get(task_type)
        return found.label if found else task_type


def load(extra_modules: Iterable[str] = ()) -> Registry:
    """Imports the handler modules of the plugins and the extra ones, and returns the types that they register.

    A `@job` counts if it runs while such a module is imported, also in another module that it imports. The extra ones
    are also looked for in the current folder, behind every other place; after their import it is no such place.

    Raises:
        ConfigurationError: a module cannot be imported or registers no type, an extra one is in the current folder and
            in another place, or two handlers have the same type.
    """
    found: dict[int, JobType] = {}
    for name, plugin in [*_plugin_modules(), *((name, "") for name in extra_modules)]:
        if plugin:
            import_handlers(name, whole=True)
        else:
            with folder.searched(name):
                import_handlers(name)
        types = {id(one): one.job_type for one in registrations if one.belongs_to(name)}
        if not types:
            raise ConfigurationError(
                f"The handler module {name} registers no task type. Decorate a function in it with @job, or remove "
                "the module from JOBDECK_HANDLERS or --handlers."
            )
        for key, job_type in types.items():
            found.setdefault(key, replace(job_type, plugin=plugin))
    return Registry(found.values())


def _plugin_modules() -> Iterator[tuple[str, str]]:
    for plugin in load_plugins():
        yield from ((name, plugin.name) for name in plugin.handlers)


def import_handlers(name: str, *, whole: bool = False) -> None:
    """Imports a module and, if it is a package and `whole`, all its modules.

    Raises:
        ConfigurationError: it cannot be imported; the message has the reason.
    """
    try:
        module = importlib.import_module(name)
        if whole and hasattr(module, "__path__"):
            for found in pkgutil.walk_packages(module.__path__, f"{name}."):
                importlib.import_module(found.name)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"The handler module {name} cannot be imported {_why_not(name, error)}") from error


def _why_not(name: str, error: BaseException) -> str:
    """The reason, and what to do: a module that is not found is named wrongly, one that fails has a defect."""
    reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        ending = f" The name of a module has no .py: {name.removesuffix('.py')}." if name.endswith(".py") else ""
        return f"({reason}). Check JOBDECK_HANDLERS or --handlers, PYTHONPATH and the current folder.{ending}"
    frames = [f"{frame.filename}, line {frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith("<frozen ")]  # fmt: skip
    where = "" if isinstance(error, SyntaxError) else f" at {frames[-1]}"
    return f"({reason}){where}. Correct the module, or install what it imports."


def registered(task_type: str | Handle[Any]) -> JobType:
    """The job type of a handle, or of a name that an imported module registered, else declared; the last of several.

    Raises:
        UnknownTaskType: no imported module did, or it is neither a name nor a handle.
    """
    if isinstance(task_type, Handle):
        return task_type.job_type
    if not isinstance(task_type, str):
        raise UnknownTaskType(
            f"A task type is given by its name or its handle, and not by a value of the class "
            f"{type(task_type).__qualname__}. A function becomes a handle by @jobdeck.job above it."
        )
    known = (*(one.job_type for one in reversed(registrations)), *reversed(declarations))
    for found in known:
        if found.task_type == task_type:
            return found
    raise UnknownTaskType(
        f"No imported module registers the task type {json.dumps(task_type)}"
        f"{meant(task_type, {one.task_type for one in known})} Import the module with its @job or jobdeck.task first."
    )
