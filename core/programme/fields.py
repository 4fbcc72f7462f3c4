"""Fields that the payloads of the game-platform jobs share, read as the original read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_BATCH = 200


def batch_size(default: int) -> Callable[[Any], Any]:
    """Reads a batch size: 0 is the default, a fraction is cut, what is out of bounds is brought within."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if not value or math.isnan(value):
            return default
        return int(min(max(value, 1), LARGEST_BATCH))

    return read


def id_cursor(value: Any) -> UUID | None:
    """Reads `{"id": uuid}`; anything else counts as none."""
    try:
        return UUID(value["id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def named_ids(value: Any) -> Any:
    """Reads ids that were named: what is no text, or blank, is left out, and each is kept once.

    Raises:
        ValueError: nothing is left; a list that names nobody must not come to mean everybody.
    """
    if not isinstance(value, list | tuple):
        return value
    texts = [str(one).strip() for one in value if isinstance(one, str | UUID)]
    kept = list(dict.fromkeys(text for text in texts if text))
    if not any(as_id(text) for text in kept):
        raise ValueError("holds no id; leave it out to mean everyone")
    return kept


def as_id(text: str) -> UUID | None:
    """The id a text is, or None where it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None
