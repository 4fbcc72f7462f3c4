"""Inserts the read receipts that are missing for archived messages, so that these no longer count as unread.

Existing receipts are not changed, and a second run finds nothing to do. After a crash, the next run continues after
the last batch.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, StrictBool

from jobdeck.core.programme.messaging import read_receipts as receipts
from jobdeck.core.programme.messaging.sending import SAMPLE
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Continue, Done, Payload

if TYPE_CHECKING:
    from jobdeck.core.programme.messaging.read_receipts import Batch
    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

RUN_SECONDS: Final = 600.0
"""A run hands over to the next one after this long."""


class Params(Payload):
    """The size of a batch and the limit in all."""

    batch_size: int = Field(500, strict=True, ge=1, le=10_000, description="Receipts per transaction")
    max_rows: Annotated[int, Field(strict=True, ge=0)] | None = Field(
        None, description="Stop after this many archived messages without a receipt (unset: all)"
    )
    dry_run: StrictBool = Field(False, description="Preview only: count the missing receipts")


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts exactly the receipts that a run would insert. Reads only the database."""
    count = receipts.missing(ctx.db, params.max_rows)
    return {
        "wouldInsert": count,
        "batches": -(-count // params.batch_size),
        "first": [str(one) for one in receipts.first(ctx.db, min(count, SAMPLE))],
    }


@job(
    "message_read_receipts_backfill",
    label="Message Read Receipt Backfill",
    purpose="Populate missing read receipts",
    payload=Params,
    concurrency="type",
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Inserts the missing receipts in batches."""
    if params.dry_run or ctx.dry_run:
        found = preview(params, ctx)
        return Done(_asked(params) | {"dryRun": True, "scanned": found["wouldInsert"], "inserted": 0} | found)
    return _Backfill(params, ctx).run()


def _asked(params: Params) -> Json:
    return {"dryRun": False, "batchSize": params.batch_size, "maxRows": params.max_rows}


class _Backfill:
    """One run, which continues after the last batch of the run before."""

    def __init__(self, params: Params, ctx: CompetitionContext) -> None:
        self._params = params
        self._ctx = ctx
        found = ctx.checkpoint or {}
        self._scanned = int(found.get("scanned", 0))
        self._inserted = int(found.get("inserted", 0))
        self._batches = int(found.get("batches", 0))
        self._after = (found["archivedAt"], found["id"]) if found.get("id") else None
        self._total = self._scanned + receipts.missing(ctx.db, self._room())

    def run(self) -> Done | Continue:
        hand_over_at = time.monotonic() + RUN_SECONDS
        while (size := self._next_size()) > 0:
            self._ctx.raise_if_cancelled()
            from_start = self._after is None
            batch = receipts.fill(self._ctx.db, size, after=self._after)
            if not batch.scanned and from_start:
                break
            self._keep(batch)
            if time.monotonic() >= hand_over_at:
                return Continue(self._place(), output=self._output())
        return Done(self._output())

    def _room(self) -> int | None:
        most = self._params.max_rows
        return None if most is None else max(most - self._scanned, 0)

    def _next_size(self) -> int:
        room = self._room()
        return self._params.batch_size if room is None else min(self._params.batch_size, room)

    def _keep(self, batch: Batch) -> None:
        self._scanned += batch.scanned
        self._inserted += batch.inserted
        self._batches += batch.scanned > 0
        # At the end, start over once: a message with an earlier archive time may have been committed later.
        at_end = batch.scanned == 0 or batch.archived_at is None
        self._after = None if at_end else (str(batch.archived_at), str(batch.id))
        self._ctx.save_checkpoint(self._place())
        self._ctx.progress(self._scanned, max(self._total, self._scanned), "receipts")

    def _place(self) -> Json:
        at, last = self._after or (None, None)
        return {
            "archivedAt": at,
            "id": last,
            "scanned": self._scanned,
            "inserted": self._inserted,
            "batches": self._batches,
        }

    def _output(self) -> Json:
        return _asked(self._params) | {
            "scanned": self._scanned,
            "inserted": self._inserted,
            "batches": self._batches,
        }
