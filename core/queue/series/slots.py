"""The slots of cron series, which a program finds and the database keeps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from jobdeck.core.errors import UsageError
from jobdeck.core.queue.calls import Connection, array, rows
from jobdeck.core.schedules import Cron

LOOKED_AT: Final = 1_000
"""The number of series looked at in one call."""


@dataclass(frozen=True, slots=True)
class Refilled:
    """How many series got slots, and the sentences about expressions that cannot be read."""

    series: int
    troubles: tuple[str, ...]


def refill(conn: Connection, *, everything: bool = False, seconds: float = 1.0) -> Refilled:
    """Writes more slots of the cron series that have fewer than ten left, or with `everything` of all.

    It stops after so many seconds; the series that have the fewest slots are first.
    """
    until = time.monotonic() + seconds
    count, troubles = 0, []
    for row in rows(conn, "SELECT * FROM job_series_short(%s, %s)", (everything, LOOKED_AT)):
        slots, trouble = None, None
        try:
            found = Cron(row["cron"], row["zone"]).slots(row["after"], now=row["at"])
            slots = array(slot.isoformat() for slot in found)
        except UsageError as error:
            trouble = str(error)
        given_to = (row["job_id"], row["cron"], row["zone"], row["after"], slots, trouble)
        filled = rows(conn, "SELECT job_series_fill(%s, %s, %s, %s, %s::timestamptz[], %s) AS filled", given_to)
        if filled[0]["filled"]:
            count += trouble is None
            troubles += [f"Job {row['job_id']}: {trouble}"] if trouble else []
        if time.monotonic() > until:
            break
    return Refilled(count, tuple(troubles))
