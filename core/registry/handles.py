"""A task type as a value that type checkers know with its payload, and the payload that an annotation names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.registry import JobType


class Payload(BaseModel):
    """The base of all payload models: camelCase in JSON, snake_case accepted, unknown keys refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class NoArguments(Payload):
    """The model of a task type that takes no arguments."""


P = TypeVar("P", bound=Payload)


class Handle(Generic[P]):
    """Names a task type in code; type checkers know the payload of its jobs.

    `job_type` has what a producer must know of the type: its name, the model of its payload, the number of attempts,
    the key and the admission. Only with a handler does it have what a worker must know.
    """

    def __init__(self, job_type: JobType) -> None:
        self.job_type = job_type

    @property
    def name(self) -> str:
        """The name of the task type, as SQL, HTTP and the commands have it."""
        return self.job_type.task_type

    def __repr__(self) -> str:
        return f"<task type {self.name}>"


def is_handler(value: object, function: Callable[..., object]) -> bool:
    """Whether a value is this handler, or the handle that stands in its place."""
    return value is function or (isinstance(value, Handle) and value.job_type.run is function)


def model_of(task_type: str, function: Callable[..., object], given: type[Payload] | None) -> type[Payload] | None:
    """The model of a type's payload: the given one, else that of the annotation of the handler's first parameter.

    An annotation that cannot be resolved when the module is imported decides nothing. Returns None without either.

    Raises:
        ConfigurationError: the annotation is no model, or another one than the given one.
    """
    wanted = _annotation(function)
    if wanted is Any or not isinstance(wanted, type):
        return given
    if given is None and not issubclass(BaseModel, wanted):
        if issubclass(wanted, BaseModel):
            # Payload itself is a handler's word for any payload.
            return None if wanted is Payload else wanted  # type: ignore[return-value]  # check() refuses no other
        raise ConfigurationError(
            f"The first parameter of the handler of {task_type} is annotated with {wanted.__qualname__}, which is no "
            "model. Annotate it with a class that derives from jobdeck.Payload."
        )
    model: object = given
    if isinstance(model, type) and issubclass(model, BaseModel) and not _accepts(wanted, model):
        raise ConfigurationError(
            f"The handler of {task_type} takes the payload {wanted.__qualname__}, and its type has the payload "
            f"{model.__qualname__}. Give both the same model."
        )
    return given


def _accepts(wanted: type, given: type) -> bool:
    try:
        return issubclass(given, wanted)
    except TypeError:
        # A protocol with attributes, which says nothing about classes.
        return True


def _annotation(function: Callable[..., object]) -> object:
    """What the first parameter is annotated with; None without an annotation that can be resolved."""
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return None
    if first is None or first.annotation is first.empty:
        return None
    names = getattr(inspect.unwrap(function), "__globals__", {})
    holder = type("Holder", (), {"__annotations__": {"payload": first.annotation}})
    try:
        return get_type_hints(holder, globalns=names)["payload"]
    except Exception:  # noqa: BLE001 -- an annotation may be any expression
        return None
