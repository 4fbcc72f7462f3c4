"""What is typed after `/`, read into a filter: free words, and words like `type:sync error:timeout`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.errors import UsageError
from core.model import Filter, RunOutcome, Status
from core.timeparse import parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = ("type", "error", "status", "coach", "attempts", "older", "outcome")


def parse(text: str, task_types: Sequence[str] = ()) -> Filter:
    """Reads a filter. A part of a task type's name stands for the type where only one of `task_types` has it.

    Raises:
        UsageError: a word's value cannot be read; the message says what would be.
    """
    found = Filter()
    free: list[str] = []
    for word in text.split():
        name, colon, value = word.partition(":")
        if not colon or name not in WORDS:
            free.append(word)
        elif value:
            found = replace(found, **_read(name, value, task_types))
    return replace(found, search=" ".join(free) or None)


def _read(name: str, value: str, task_types: Sequence[str]) -> dict[str, Any]:
    if name == "type":
        return {"task_type": _task_type(value, task_types)}
    if name == "status":
        return {"status": None if value == "all" else _member(Status, name, value)}
    if name == "outcome":
        return {"outcome": _member(RunOutcome, name, value)}
    if name == "attempts":
        if not value.isascii() or not value.isdigit():
            raise UsageError(f"attempts: wants a whole number, not {value}. Example: attempts:3")
        return {"attempts_at_least": int(value)}
    if name == "older":
        return {"older_than": parse_duration(value, what="age after older:")}
    return {"coach_id" if name == "coach" else "error": value}


def _member(kind: type[Status | RunOutcome], name: str, value: str) -> Status | RunOutcome:
    near = [item for item in kind if item.value.startswith(value)]
    exact = [item for item in near if item.value == value]
    if len(near) == 1 or exact:
        return (exact or near)[0]
    raise UsageError(f"{name}: wants one of {', '.join(item.value for item in kind)}; not {value}.")


def _task_type(value: str, task_types: Sequence[str]) -> str:
    if value in task_types:
        return value
    having = [name for name in task_types if value in name]
    if len(having) == 1:
        return having[0]
    if having:
        raise UsageError(f"type:{value} could be {', '.join(having)}. Say more of it.")
    return value
