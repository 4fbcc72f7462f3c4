"""JSON on its way in and out: what handlers give made fit for a jsonb column, and what stands there read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from jobdeck.core.errors import PermanentError
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from jobdeck.core.model import Json

OUTPUT_BYTES = 256 * 1024


class NotStorableError(PermanentError):
    """A handler's output or checkpoint is no JSON object. Running the job again would give the same."""

    kind = "not_storable"


def read(data: bytes | bytearray | str) -> Any:
    """Reads a value of the database, several times as fast as the standard library does.

    Jsonb can hold what Python cannot read: numbers of thousands of digits, hundreds of levels. In its place comes an
    object that says so, because nothing that a producer stored may keep a claim or a page from being read.
    """
    try:
        return from_json(data)
    except ValueError as error:
        return {"unreadable": f"What is stored here cannot be read: {error}"}


def storable(value: Any, what: str, limit: int) -> Json:
    """Returns the object with NUL characters and lone surrogates, which jsonb refuses, as visible escapes.

    Args:
        value: what the handler gave.
        what: what it is called in the error: `output`, `checkpoint`.
        limit: the most bytes it may take as JSON text.

    Raises:
        NotStorableError: it is no JSON object, or too large.
    """
    text = _text(value, what)
    if len(text) > limit:
        raise NotStorableError(f"The {what} takes {len(text):,} bytes as JSON; {limit:,} are allowed. Keep less in it.")
    return _without_refused(value, text)


def fitted(output: Any) -> Json:
    """Returns a run's output fit to be kept; what is too large is left out rather than the run failed.

    The work is done when its output arrives, so the largest entries give way to a note of their size, and
    `truncated` is set; counts survive.

    Raises:
        NotStorableError: it is no JSON object.
    """
    text = _text(output, "output")
    if len(text) > OUTPUT_BYTES:
        output = _truncated(output, len(text))
        text = _text(output, "output")
    return _without_refused(output, text)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, dict):
        raise NotStorableError(f"The {what} must be a JSON object, and the handler gave a {type(value).__name__}.")
    try:
        return json.dumps(value, allow_nan=False)
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
