"""Histograms of times: counts in bins, each 1.41 times as wide as the one before.

`job_stat_bins` in `schema.sql` chooses the bin. The first one has times below 1 ms, the last one times from 99 days on.
"""

from __future__ import annotations

import math
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

EDGES: Final = tuple(0.001 * 2 ** (step / 2) for step in range(67))
"""The lower edges of the bins in seconds, without that of the first one, which is 0."""


def percentile(bins: Sequence[int], share: float) -> float | None:
    """The time in seconds that this share of the runs did not exceed, within 20 %; None without runs.

    Of times below 1 ms it is 1 ms, of times from 99 days on it is 99 days.
    """
    total = sum(bins)
    if not total:
        return None
    rank = max(math.ceil(total * share), 1)
    place = next(place for place, so_far in enumerate(accumulate(bins)) if so_far >= rank)
    if place in {0, len(EDGES)}:
        return EDGES[max(place - 1, 0)]
    # The middle between the edges, as a factor: 1.19 times the lower one.
    return EDGES[place - 1] * 2**0.25


def added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Two histograms as one. Bins above the last one in use may be missing."""
    return tuple(left + right for left, right in zip_longest(one, other, fillvalue=0))
