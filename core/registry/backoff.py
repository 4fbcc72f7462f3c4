"""The delay before a retry that a task type's own function chooses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Backoff = Callable[[int, BaseException], float | None]

LONGEST_DELAY = 31_536_000.0
"""The seconds of a year, to which the database limits a delay."""


def own_delay(function: Backoff, attempt: int, error: BaseException) -> float | None:
    """The seconds that a backoff function chooses, from 0 to a year; None if it leaves them to the default.

    Raises:
        TypeError, ValueError: it returned something else.
        BaseException: whatever the function raises.
    """
    chosen: object = function(attempt, error)
    if chosen is None:
        return None
    if isinstance(chosen, bool) or not isinstance(chosen, int | float):
        raise TypeError(f"it returned a {type(chosen).__name__}; it must return seconds or None")
    if isinstance(chosen, float) and math.isnan(chosen):
        raise ValueError("it returned nan; it must return seconds or None")
    return float(min(max(chosen, 0), LONGEST_DELAY))
