"""Values as harmless text and as JSON types, with personal data masked, for the commands and the dashboard."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from jobdeck.core.redact import clean, redact, safe_text, scrub
from jobdeck.core.times import format_duration

if TYPE_CHECKING:
    from jobdeck.core.model import Json, Processing, TypePause

NONE = "-"
_FOREIGN = frozenset({"payload", "output", "checkpoint", "progress", "before", "after", "effects", "schedule"})
"""Fields whose keys producers and handlers choose."""


def pauses(processing: Processing) -> tuple[TypePause, ...]:
    """The pauses that people began: those of queues, and those of types by themselves."""
    return (*processing.paused_queues, *(one for one in processing.paused_types if one.queue is None))


class Verbatim(str):
    """Text that is written without being masked: it is masked or revealed already, or made by this program alone."""

    __slots__ = ()


def masked(text: str) -> str:
    """The text, harmless but for line feeds and with personal data masked; `Verbatim` text as it is."""
    return text if isinstance(text, Verbatim) else safe_text(text)


def plain(value: Any, *, revealed: bool = False) -> Any:
    """Converts a value of `jobdeck.core.model` to JSON types: times to ISO 8601 UTC, durations to seconds.

    Masks personal data in all but ids, times, numbers and enumerations, unless it is `revealed`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        if revealed:
            return {str(key): plain(inner, revealed=True) for key, inner in value.items()}
        return {clean(redact(str(key))): _masked_field(key, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, revealed=revealed) for inner in value]
    return _scalar(value, revealed=revealed)


def _masked_field(name: Any, value: Any) -> Any:
    return plain(scrub(value), revealed=True) if name in _FOREIGN else plain(value)


def _scalar(value: Any, *, revealed: bool) -> Any:
    match value:
        case Enum():
            return value.value
        case str():
            return str(value) if revealed or isinstance(value, Verbatim) else safe_text(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case UUID() | PurePath():
            return str(value)
        case _:
            return value


def when(moment: datetime | None) -> str:
    """A time in UTC to the second, or a dash."""
    return NONE if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def seconds(duration: timedelta) -> str:
    """A short duration with the precision a run's length needs."""
    length = duration.total_seconds()
    return f"{length:.2f}s" if length < 60 else format_duration(duration)


def cut(text: str | None, length: int, *, revealed: bool = False) -> str:
    """A text on one line, masked unless `revealed`, cut to `length` characters."""
    whole = line(text, revealed=revealed)
    return Verbatim(whole if len(whole) <= length else f"{whole[: length - 1]}…")


def line(text: str | None, *, revealed: bool = False) -> str:
    """A text on one line, masked unless `revealed`. A table shortens it to what its terminal allows."""
    if not text:
        return NONE
    return Verbatim(clean(clean(text, multiline=True) if revealed else masked(text)).strip())


def payload(value: Json | None, length: int = 10_000, *, revealed: bool = False) -> str:
    """A payload or an output on one line, with personal data masked unless `revealed`."""
    if not value:
        return NONE
    return cut(json.dumps(value if revealed else scrub(value), ensure_ascii=False), length, revealed=True)
