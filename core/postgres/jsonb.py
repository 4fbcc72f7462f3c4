"""JSON of jsonb columns: parses stored values, and prepares values of handlers for storing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_jsonable_python

from jobdeck.core.errors import PermanentError
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from jobdeck.core.model import Json

OUTPUT_BYTES = 256 * 1024
UNREADABLE = "unreadable"
"""The key of the object that replaces a value which Python cannot parse."""


class NotStorableError(PermanentError):
    """A handler's output or checkpoint cannot be written as a JSON object; a retry would give the same result."""

    kind = "not_storable"


def read(data: bytes | bytearray | str) -> Any:
    """Parses a stored value, several times faster than the standard library.

    Jsonb can contain values that Python cannot parse: numbers of thousands of digits, hundreds of levels. They are
    replaced by an object that says so, because no stored value may break a claim or a page.
    """
    try:
        return from_json(data)
    except ValueError as error:
        return {UNREADABLE: f"The stored value cannot be parsed: {error}"}


def storable(value: Any, what: str, limit: int) -> Json:
    """Returns the object with values that JSON has: times, UUIDs, decimals, models and so on as pydantic writes them.

    NUL characters and lone surrogates, which jsonb refuses, become visible escapes.

    Args:
        value: the value from the handler.
        what: its name in the error: `output`, `checkpoint`.
        limit: the maximum size of its JSON text, in bytes.

    Raises:
        NotStorableError: it cannot be written as a JSON object, or is too large.
    """
    value, text = _written(value, what)
    if len(text) > limit:
        raise NotStorableError(f"The {what} takes {len(text):,} bytes as JSON; {limit:,} are allowed. Store less.")
    return _without_refused(value, text)


def fitted(output: Any) -> Json:
    """Returns a run's output, shortened if it is too large: the work is done, so the run must not fail for its size.

    The largest entries are replaced by a note of their size, and `truncated` is set; counts remain.

    Raises:
        NotStorableError: it cannot be written as a JSON object.
    """
    output, text = _written(output, "output")
    if len(text) > OUTPUT_BYTES:
        output, text = _written(_truncated(output, len(text)), "output")
    return _without_refused(output, text)


def _written(value: Any, what: str) -> tuple[Json, str]:
    """The object with values that JSON has, and its text."""
    if not isinstance(value, dict):
        raise NotStorableError(
            f"The {what} must be a JSON object (a dict), and not of the type {type(value).__name__}."
        )
    try:
        try:
            return value, json.dumps(value, allow_nan=False)
        except TypeError:
            value = to_jsonable_python(value)
            return value, json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorableError(f"The {what} cannot be written as JSON: {error}.") from error


def _without_refused(value: Json, text: str) -> Json:
    if "\\u0000" in text or "\\ud" in text:
        return {clean(str(key), multiline=True): _cleaned(entry) for key, entry in value.items()}
    return value


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, multiline=True)
    if isinstance(value, dict):
        return {clean(str(key), multiline=True): _cleaned(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(entry) for entry in value]
    return value


def _truncated(output: Json, size: int) -> Json:
    kept: Json = {**output, "truncated": True}
    sizes = {key: len(json.dumps(entry)) for key, entry in output.items()}
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        note = f"({sizes[key]:,} bytes left out)"
        kept[key] = note
        size += len(note) - sizes[key]
        if size < OUTPUT_BYTES - 100:
            return kept
    return {"truncated": True, "bytes": sum(sizes.values())}
