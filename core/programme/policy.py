"""The numbers by which the game-platform jobs work where the vendor's documents leave them open."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

OUTAGES_IN_A_ROW: Final = 5
"""So many people in a row for whom the vendor could not answer end a run; it is tried again later."""

OUTAGE_PAUSE_SECONDS: Final = 300.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
SECOND_LOOK_SECONDS: Final = 60.0
"""People whom an outage left over are looked at again after this long, at the least."""
ALL_FAILED_PAUSE_SECONDS: Final = 900.0
BUSY_PAUSE_SECONDS: Final = 60.0

RUN_SECONDS: Final = 600.0
"""A run hands over to the next one after this long, well inside its task type's timeout."""

PAGE: Final = 200
"""Competitors read at a time."""

HEARTBEAT_SECONDS: Final = 15.0
"""How often a run that waits for the vendor says in the ledger that it is alive."""

STALE_AFTER: Final = timedelta(seconds=120)
"""A run of another job that has said nothing for this long is dead, and its place is free."""

ERRORS_TOLD: Final = 20
SAMPLE: Final = 10
