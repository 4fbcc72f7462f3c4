"""What is wrong with a payload that does not fit its model, in words, and whether a newer program may know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError

    Fault = tuple[tuple[int | str, ...], str]
    """Where a fault is, and pydantic's name of its kind."""

UNKNOWN: Final = "extra_forbidden"
_PLAIN: Final = {
    UNKNOWN: "is not a field of this task type",
    "model_type": "must be a JSON object, such as {}",
}


def misfit(task_type: str, payload: object, error: ValidationError) -> InvalidPayload:
    """The refusal of a payload that does not fit the model of its type."""
    problems: dict[str, str] = {}
    found = error.errors(include_url=False, include_input=False, include_context=False)
    for item in found:
        where = ".".join(str(part) for part in item["loc"]) or "payload"
        problems[where] = _PLAIN.get(item["type"], item["msg"])
    faults = [(item["loc"], item["type"]) for item in found]
    return InvalidPayload(
        f"The payload does not fit {task_type}: {'; '.join(map(': '.join, problems.items()))}.",
        problems,
        only_unknown=all(kind == UNKNOWN for _, kind in faults) or _only_unknown(faults, payload),
    )


def _only_unknown(faults: Iterable[Fault], value: Any) -> bool:
    """Whether a value fits but for fields that its models do not have.

    Where it may be one of several models, or a model or a number, the faults of each are given, below its name; then
    it is enough that one of them has only such faults.
    """
    fields: dict[int | str, list[Fault]] = {}
    models: dict[int | str, list[Fault]] = {}
    for place, kind in faults:
        if not place:
            return False
        first, rest = place[0], place[1:]
        if not _has(value, first):
            models.setdefault(first, []).append((rest, kind))
        elif rest or kind != UNKNOWN:
            fields.setdefault(first, []).append((rest, kind))
    fit = all(_only_unknown(found, value[name]) for name, found in fields.items())
    return fit and (not models or any(_only_unknown(found, value) for found in models.values()))


def _has(value: object, name: int | str) -> bool:
    return name in value if isinstance(value, dict) else isinstance(value, list) and isinstance(name, int)
