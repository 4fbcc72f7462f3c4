"""A change of keys in payloads, as a person writes it, and the difference that it makes, masked for a terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import UsageError
from jobdeck.core.model import arguments
from jobdeck.core.queue.requests import parse_object
from jobdeck.core.redact import clean, redact, scrub

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobdeck.core.model import ActionResult, Job, Json

LONGEST: Final = 120
"""Maximum number of characters of a value in a difference."""
LINES: Final = 12
"""Maximum number of keys in a difference."""
_ENTRIES: Final = 20
"""How many entries of a list or an object are masked for a difference, since it shows its beginning only."""


@dataclass(frozen=True, slots=True)
class PayloadChange:
    """Keys of a payload that get a value, and keys that are removed."""

    set: Json
    unset: tuple[str, ...] = ()

    def apply(self, payload: Json) -> Json:
        """The payload with the change; the payload itself stays as it is. One that is no object is replaced."""
        if not self.set and not self.unset:
            return payload
        return {key: value for key, value in arguments(payload).items() if key not in self.unset} | self.set

    @property
    def words(self) -> str:
        """The keys that it changes, without their values, which may be private."""
        named = [*(f"set {key}" for key in self.set), *(f"unset {key}" for key in self.unset)]
        return clean(redact(", ".join(named)))


def parse_change(sets: Sequence[str], unset: Sequence[str] = ()) -> PayloadChange:
    """Parses `KEY=VALUE` and names of keys. A value is JSON; text that is not JSON stands for itself.

    Raises:
        UsageError: a text has no key or no `=`, a key occurs twice, or Postgres cannot store a value.
    """
    wanted: dict[str, Any] = {}
    for text in sets:
        key, value = _parts(text)
        if key in wanted:
            raise UsageError(f"The key {key} is set twice. Remove one of them.")
        wanted |= parse_object(json.dumps({key: value}), what=f"value of {key}")
    for key in unset:
        if not key:
            raise UsageError("The name of a key to unset is empty.")
        if key in wanted or list(unset).count(key) > 1:
            raise UsageError(f"The key {key} is named twice. Remove one of them.")
    return PayloadChange(wanted, tuple(unset))


def _parts(text: str) -> tuple[str, Any]:
    """The key, which may be in double quotes, and the value."""
    key, sign, value = text.partition("=")
    if text.startswith('"'):
        try:
            key, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            raise UsageError(f"The quote of the key in {text} is not closed.") from None
        sign, value = text[end : end + 1], text[end + 1 :]
    if sign != "=" or not key:
        raise UsageError(f"{text or 'An empty text'} is not KEY=VALUE. Write it like url=https://example.org.")
    try:
        return key, json.loads(value, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return key, value


def _no_json(word: str) -> None:
    raise ValueError(word)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One key that differs. `before` and `after` are masked and may be cut; None where the payload lacks the key."""

    key: str
    before: str | None
    after: str | None

    @property
    def line(self) -> str:
        """The change on one line."""
        if self.before is None:
            return f"+ {self.key}: {self.after}"
        if self.after is None:
            return f"- {self.key}: {self.before}"
        alike = " (the difference is in a part that is not shown)" if self.before == self.after else ""
        return f"~ {self.key}: {self.before} → {self.after}{alike}"


@dataclass(frozen=True, slots=True)
class Difference:
    """The keys that differ between two payloads, at most `LINES`; `left` counts those that are not shown."""

    keys: tuple[KeyChange, ...]
    left: int = 0

    @property
    def lines(self) -> list[str]:
        more = [f"and {self.left} more keys, which are not shown"] if self.left else []
        return [*(key.line for key in self.keys), *more]


def difference(before: Any, after: Json) -> Difference:
    """What differs between two payloads, key by key, in the order of the payload after."""
    found = list(_differing((), before, after)) if isinstance(before, dict) else [(("payload",), before, after)]
    return Difference(
        tuple(KeyChange(_name(path), _shown(path, old), _shown(path, new)) for path, old, new in found[:LINES]),
        max(len(found) - LINES, 0),
    )


class _Absent:
    """The value of a key that a payload lacks."""


_ABSENT: Final = _Absent()
_Path = tuple[str, ...]


def _differing(path: _Path, before: Json, after: Json) -> Iterator[tuple[_Path, Any, Any]]:
    for key in [*after, *(key for key in before if key not in after)]:
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict) and len(path) < LINES:
            yield from _differing((*path, key), old, new)
        elif type(old) is not type(new) or old != new:
            yield (*path, key), old, new


def _name(path: _Path) -> str:
    name = clean(redact(".".join(path)))
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}…"


def _shown(path: _Path, value: Any) -> str | None:
    """The value, masked as it is in the whole payload, and cut; None if there is none."""
    if isinstance(value, _Absent):
        return None
    wrapped: Any = _beginning(value)
    for key in reversed(path):
        wrapped = {key: wrapped}
    masked = scrub(wrapped)
    for _ in path:
        masked = next(iter(masked.values()))
    text = clean(json.dumps(masked, ensure_ascii=False))
    size = _size(value)
    if len(text) <= LONGEST and size <= LONGEST:
        return text
    return f"{text[:LONGEST]}… ({size:,} characters in all)"


def _beginning(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _beginning(value[key]) for key in list(value)[:_ENTRIES]}
    return [_beginning(entry) for entry in value[:_ENTRIES]] if isinstance(value, list) else value


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class EditRehearsal:
    """What a bulk edit would do to the first `checked` of `total` jobs, with the differences of the first few."""

    total: int
    changed: int
    same: int
    refused: tuple[ActionResult, ...]
    first: tuple[tuple[Job, Difference], ...]

    @property
    def checked(self) -> int:
        return self.changed + self.same + len(self.refused)

    @property
    def words(self) -> str:
        """The numbers as a sentence."""
        partly = f" Only the first {self.checked:,} were checked." if self.checked < self.total else ""
        counts = f"{self.same:,} have nothing to change, {len(self.refused):,} are refused."
        return f"This would edit {self.changed:,} of {self.total:,} jobs; {counts}{partly}"
