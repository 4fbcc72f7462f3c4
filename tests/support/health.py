"""What health says about a test's database, and what it judges: workers that report, and calls of a scheduler."""

from __future__ import annotations

from collections.abc import Sequence

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.queue import presence
from jobdeck.core.read.verdict.health import health
from tests.support.queue import WORKER, Connection


def announce(
    conn: Connection,
    worker_id: str = WORKER,
    *,
    types: Sequence[str] = ("alpha",),
    concurrency: int = 1,
    running: int = 0,
) -> int:
    """The report of a worker that handles these types; returns how many live workers handle one of them."""
    return presence.report_worker(
        conn, worker_id=worker_id, host="host-1", pid=42, mode="headless", version="0.1.0", concurrency=concurrency,
        task_types=list(types), running=running,
    )  # fmt: skip


def called(
    conn: Connection, *, source: str = "cron_http", status: str = "ok", claimed: int = 0, http_status: int | None = 200
) -> None:
    """One call of a scheduler, opened and closed now; the runs of all jobs that it claimed succeeded."""
    run_id = presence.open_worker_run(conn, source=source, worker_id="cycle-1", http_method="GET")
    presence.close_worker_run(
        conn, run_id, status=status, claimed=claimed, succeeded=claimed, failed=0, released=0, http_status=http_status
    )


def findings(conn: Connection, signal: str, **timeouts: float) -> list[Finding]:
    """What health finds for this signal; `timeouts` are those of task types."""
    return [one for one in health(timeouts=timeouts or None).run(conn).findings if one.signal == signal]


def finding(conn: Connection, signal: str, **timeouts: float) -> Finding:
    """The only finding for this signal."""
    (found,) = findings(conn, signal, **timeouts)
    return found


def judged(conn: Connection, signal: str, verdict: Verdict, *words: str, **timeouts: float) -> Finding:
    """The only finding for this signal, which has this verdict, and these words in its evidence."""
    found = finding(conn, signal, **timeouts)
    assert found.verdict is verdict
    assert [word for word in words if word not in found.evidence] == []
    return found


def verdict(conn: Connection, signal: str) -> Verdict | None:
    """The verdict for this signal; None where there is nothing to judge."""
    found = findings(conn, signal)
    assert len(found) < 2
    return found[0].verdict if found else None
