"""Asks a worker to run one job next and alone, although its type or everything is paused, and reads the answer.

The job is not changed until a worker takes it. If none does within a minute, the request is taken back by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.errors import Refused
from jobdeck.core.queue.calls import rows
from jobdeck.core.read.canaries import CanaryAsked, answer_from
from jobdeck.core.read.rows import result_from

if TYPE_CHECKING:
    from uuid import UUID

    from jobdeck.core.queue.calls import Connection
    from jobdeck.core.read.canaries import CanaryAnswer


def ask(
    conn: Connection,
    job_id: UUID,
    *,
    actor: str,
    version: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> CanaryAsked:
    """Asks to run the job, if it is still at `version` (None: any). No other job is changed.

    Refused where a retry would be, if no live worker handles the type, and while another job of its group of errors
    (its type and the fingerprint of its error) is asked for.
    """
    (row,) = rows(
        conn, "SELECT * FROM job_queue_ask_canary(%s, %s, %s, %s, %s)", (job_id, version, actor, reason, dry_run)
    )
    result = result_from(row)
    return CanaryAsked(result, row["facts"].get("canary") if result.ok else None)


def answer(conn: Connection, canary: int) -> CanaryAnswer:
    """What has become of the request. Once its state is final, it stays as it is, as long as the audit is kept.

    Raises:
        Refused: there is no such request.
    """
    found = rows(conn, "SELECT * FROM job_queue_canary(%s)", (canary,))
    if not found:
        raise Refused(f"There is no canary {canary}.")
    return answer_from(canary, found[0])
