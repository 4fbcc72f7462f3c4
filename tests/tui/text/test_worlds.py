"""Each finding, headline, digest line and advice, rendered from a table of worlds.

`./test tests/tui/text/test_worlds.py -rP` prints them, for a person to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import pytest

from jobdeck.core.model import Filter
from jobdeck.core.queue import operator, presence
from jobdeck.core.read import jobs, reports
from jobdeck.core.read.report_types import Permissions
from jobdeck.core.words import shift
from jobdeck.tui.backend.protocol import EmbeddedWorker, Session, View
from jobdeck.tui.text import playbook
from jobdeck.tui.text.first import now as first
from tests.support.health import announce, called
from tests.support.queue import ACTOR, WORKER, Connection
from tests.support.run_history import History

SOURCE: Final = playbook.source
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
World = Callable[[Connection], None]


def _later(conn: Connection, length: timedelta) -> None:
    """Lets time pass; a worker is alive and has done its upkeep."""
    conn.advance(length)
    _idle(conn)
    conn.execute("UPDATE job_upkeep SET succeeded_at = now()")


def _nothing(_conn: Connection) -> None:
    """No worker, no job, no run."""


def _idle(conn: Connection) -> None:
    announce(conn, types=["push"])


def _paused(conn: Connection) -> None:
    _idle(conn)
    conn.add_waiting(conn.now() - MINUTE, "push")
    operator.pause(conn, reason="vendor is down", actor=ACTOR)


def _no_worker(conn: Connection) -> None:
    conn.add_waiting(conn.now() - 20 * MINUTE, "push")


def _one_run(conn: Connection) -> None:
    _idle(conn)
    conn.add("push", max_attempts=1)
    conn.run_once(types=("push",), outcome="failed", error="vendor answered 429", error_kind="vendor")


def _in_a_row(conn: Connection) -> None:
    _idle(conn)
    _judged(conn, 0, failed=3)


def _failing(conn: Connection) -> None:
    _idle(conn)
    for hour in range(3, 100):
        History(conn).ran(conn.now() - timedelta(hours=hour), succeeded=98, failed=2)
    _judged(conn, 0, succeeded=108, retried=412)


def _without_a_history(conn: Connection) -> None:
    _idle(conn)
    _judged(conn, 0, failed=30)


def _all_lost(conn: Connection) -> None:
    _idle(conn)
    History(conn).lost(conn.now(), 2274)
    _judged(conn, 0, succeeded=3711)


def _new_error(conn: Connection) -> None:
    _idle(conn)
    for number in range(30):
        conn.add("push", payload={"n": number}, run_at=conn.now() - MINUTE)
    for number, job in enumerate(conn.claim(("push",), limit=30)):
        conn.finish_one(job, "failed", error=f"vendor answered {number}", error_kind="vendor", permanent=True)
    conn.ended_now()
    History(conn).ran(conn.now(), succeeded=1000)
    conn.execute("SELECT job_stats_compact(1000)")
    _judged(conn, 0)


def _retry_later(conn: Connection) -> None:
    _idle(conn)
    conn.add("push", max_attempts=1)
    conn.run_once(types=("push",), outcome="failed", error="not yet", error_kind="retry_later")


def _few(conn: Connection) -> None:
    _idle(conn)
    for before in range(1, 12):
        History(conn).ran(conn.now() - before * 2 * MINUTE, succeeded=1, failed=1)
    conn.execute("INSERT INTO job_types (task_type, warning_share) VALUES ('push', 0.1)")
    _judged(conn, 0, failed=1)


def _recovering(conn: Connection) -> None:
    _idle(conn)
    _judged(conn, 20, failed=30)
    _judged(conn, 0, succeeded=4000, failed=1)


def _silent(conn: Connection) -> None:
    _idle(conn)
    _judged(conn, 30, succeeded=15, failed=85)
    _judged(conn, 0)


def _type_paused(conn: Connection) -> None:
    _silent(conn)
    operator.pause(conn, reason="vendor is down", actor=ACTOR, task_type="push")


def _ended(conn: Connection) -> None:
    _idle(conn)
    _judged(conn, 70, succeeded=15, failed=85)
    _judged(conn, 0)


def _muted(conn: Connection) -> None:
    _failing(conn)
    muted = "INSERT INTO job_types (task_type, muted_until, muted_by) VALUES ('push', now() + interval '1 h', 'kim')"
    conn.execute(muted)


def _killed(conn: Connection) -> None:
    """A worker that was killed 6 minutes ago, whose job nobody has taken back."""
    _idle(conn)
    conn.add("push")
    conn.claim(("push",))
    presence.open_worker_run(conn, source="worker", worker_id=WORKER)
    conn.advance(6 * MINUTE)


def _killed_beside_another(conn: Connection) -> None:
    _killed(conn)
    announce(conn, "worker-2", types=["push"])
    conn.reap()


def _lease_over(conn: Connection) -> None:
    """A job whose worker has died, beside a live worker that has not taken it back yet."""
    _killed(conn)
    announce(conn, "worker-2", types=["push"])


def _long_run(conn: Connection) -> None:
    _idle(conn)
    conn.add("slow")
    conn.claim(("slow",), lease=7200.0)
    _later(conn, timedelta(seconds=45))


def _series_fails(conn: Connection) -> None:
    _idle(conn)
    conn.add("push", recurrence_interval_minutes=60, max_attempts=1)
    conn.run_once(types=("push",), outcome="failed", error="vendor answered 429", error_kind="vendor")


def _ran_elsewhere(conn: Connection) -> None:
    _killed_beside_another(conn)
    conn.execute("UPDATE job_queue SET run_at = now()")
    conn.run_once(types=("push",))


def _call_crashed(conn: Connection) -> None:
    presence.open_worker_run(conn, source="cron_http", worker_id="cycle-1")
    conn.advance(20 * MINUTE)
    _idle(conn)


def _scheduler_died(conn: Connection) -> None:
    called(conn)
    conn.add("push")
    conn.advance(60 * MINUTE)


def _newer_payload(conn: Connection) -> None:
    _idle(conn)
    conn.add("push")
    error = "The payload does not fit push: locale: is not a field of this task type."
    (job,) = conn.claim(("push",))
    conn.finish_one(job, "snoozed", delay=120.0, give_up_after=3600.0, error_kind="newer_payload", error=error)


def _unhandled(conn: Connection) -> None:
    conn.add_waiting(conn.now() - 20 * MINUTE, "pull")
    _idle(conn)


def _type_paused_for_a_day(conn: Connection) -> None:
    conn.add("push")
    operator.pause(conn, reason=None, actor=ACTOR, task_type="push")
    _later(conn, timedelta(days=2))


def _series_paused(conn: Connection) -> None:
    _idle(conn)
    job = conn.add("push", recurrence_interval_minutes=60)
    operator.pause_series(conn, job.id, actor=ACTOR)
    _later(conn, 2 * HOUR)


def _place_held(conn: Connection, **fields: str) -> None:
    _idle(conn)
    operator.set_type(conn, "push", changes={"max_running": 1}, actor=ACTOR, reason=None)
    for _ in range(2):
        conn.add("push", **fields)
    conn.claim(("push",), lease=7200.0)
    _later(conn, 12 * MINUTE)


def _key_held(conn: Connection) -> None:
    _idle(conn)
    for _ in range(3):
        conn.add("push", concurrency_key="coach 7")
    conn.claim(("push",), lease=7200.0)
    _later(conn, 12 * MINUTE)


def _behind_a_key(conn: Connection) -> None:
    _idle(conn)
    conn.add("push", concurrency_key="coach 7")
    conn.claim(("push",), lease=7200.0)
    for minutes in (8, 3, 1):
        conn.add_waiting(conn.now() - minutes * MINUTE, "push", concurrency_key="coach 7")


def _backdated(conn: Connection) -> None:
    _idle(conn)
    conn.add("push", run_at=conn.now() - timedelta(days=2526))


def _judged(conn: Connection, minutes_ago: int, **outcomes: int) -> None:
    at = conn.now() - minutes_ago * MINUTE
    History(conn).ran(at, **outcomes)
    conn.execute("SELECT job_stats_judge(%s)", (at + timedelta(seconds=1),))


TIME: Final = r"(?:\d\d-\d\d )?\d\d:\d\dZ"
IN_TIME: Final = rf"in the 15 minutes to {TIME}"
WORLDS: Final[dict[str, tuple[World, tuple[str, ...]]]] = {
    "no history": (_nothing, (r"No worker has connected yet", r"No backlog\.")),
    "nothing to do": (_idle, (r"1 worker alive\.", r"now: ok: No problems found\.")),
    "paused": (_paused, (r"turned off by mara@local \(jobdeck\): vendor is down\.", r"PAUSED: vendor is down")),
    "no worker": (_no_worker, (r"Oldest job waiting 20m: push\.", r"No worker has connected yet")),
    "one run": (_one_run, (r"0 succeeded, 0 runs retried, 1 failed permanently",)),
    "a few in a row": (_in_a_row, (r"push: the last 3 runs failed; green after 15 minutes of good runs\.",)),
    "failing": (
        _failing, (rf"push: 79 % of runs failed {IN_TIME} \(412 of 520, usually 2\.0 %\); green by {TIME} if no",)
    ),
    "without a history": (_without_a_history, (rf"push: 100 % of runs failed {IN_TIME} \(30 of 30\); green by",)),
    "all lost": (
        _all_lost, (rf"push: 2,274 jobs failed permanently {IN_TIME}; 38 % of 5,985 runs failed; green by {TIME}",)
    ),
    "a new error": (
        _new_error,
        (
            rf"push: 30 jobs failed permanently {IN_TIME}; 30 runs with a new error: vendor answered #; 2\.9 % of",
        ),
    ),
    "retry later": (_retry_later, (r"unless it repeats for hours\. One that failed has used its attempts",)),
    "few runs": (
        _few, (rf"push: 55 % of the last 20 runs failed, up to {TIME} \(11 of 20\); green after the next 20 good",)
    ),
    "recovering": (
        _recovering, (rf"push: recovering since {TIME}: under 0\.1 % of runs failed {IN_TIME} \(1 of 4,001\); green",)
    ),
    "without runs": (_silent, (rf"\(85 of 100\); no run since {TIME}\.",)),
    "the type is paused": (_type_paused, (rf"\(85 of 100\); paused since {TIME}\.",)),
    "ended": (_ended, (rf"push: ended at 85 %, no run since {TIME}\.",)),
    "muted": (_muted, (r"; muted by kim until \d{4}-\d\d-\d\d \d\d:\d\dZ\.",)),
    "a worker was killed": (
        _killed,
        (
            r"No worker is alive; the last one died 6m ago\.",
            r"Some jobs of silent workers have not started again: worker-1 for",
        ),
    ),
    "killed beside another": (_killed_beside_another, (r"warning  silent workers: Some jobs of silent workers have",)),
    "a lease is over": (_lease_over, (r"1 running job waits for a live worker to take it back: its lease expired\.",)),
    "a long run": (_long_run, (r"1 run has used more than 80 % of the timeout; the longest is of slow\.",)),
    "a series fails": (
        _series_fails,
        (
            r"warning  recurring jobs: 1 recurring job fails: push in its last cycle\.",
            r"0 runs retried, 1 failed cycle of series, 0 failed permanently",
        ),
    ),
    "its job ran elsewhere": (_ran_elsewhere, (r"✓ All well",)),
    "a call crashed": (_call_crashed, (r"1 call of a scheduler or a command crashed: begun in the last day",)),
    "the scheduler died": (_scheduler_died, (r"now: critical: The scheduler has stopped: last good call 60m ago",)),
    "a newer payload": (_newer_payload, (r"push: 1 job has `locale`, which the one worker does not know; it fails",)),
    "no worker for a type": (_unhandled, (r"critical cannot run: pull: 1 job is due, and the one live",)),
    "a type forgotten": (
        _type_paused_for_a_day,
        (r"warning  cannot run: push: 1 job is due, and the type was", r"due jobs: No other jobs wait\."),
    ),
    "a series paused": (_series_paused, (r"ok       cannot run: push: 1 paused series is overdue",)),
    "a place held": (_place_held, (r"warning  cannot run: push: 1 job waits, and the only place is held by job",)),
    "a key held": (
        _key_held,
        (r"warning  cannot run: push: 2 jobs wait for a key that is held by job", r"due jobs: No other jobs wait\."),
    ),
    "behind a key": (
        _behind_a_key,
        (
            r"due jobs: 3 jobs wait until their concurrency key is free, the oldest for 8m\.",
            r"· 3 jobs wait until their concurrency key is free, the oldest for 8m",
        ),
    ),
    "due before it was made": (_backdated, (r"No backlog\.|Oldest job waiting 0s",)),
}  # fmt: skip
UNTRUE: Final = re.compile(r"None|nan|usually 50 %|\b0\.0 %|\.\.(?!\.)|; \.|awaiting retry|  +\S+ of 0 ")


def rendered(conn: Connection) -> dict[str, list[str]]:
    """All that is said of this world, by where it is said."""
    snapshot = jobs.snapshot(Filter()).run(conn)
    judged = reports.cron(timeouts={"slow": 50.0}).run(conn).health.findings
    session = Session("db", ACTOR, Permissions(view=True, operate=True, work=True, role="kim"), (), embedded=False)
    digest = reports.digest(timedelta(hours=8)).run(conn)
    items = first.items(View(session, snapshot, EmbeddedWorker()))
    drawn = [first.lines(items, width, height, lambda action: action)[0] for width, height in ((60, 2), (200, 12))]
    return {
        "findings": [f"{one.verdict.value:<9}{one.signal}: {one.evidence}" for one in judged],
        "headline": ["".join(text for text, _ in row).rstrip() for rows in drawn for row in rows],
        "digest": [f"{name}: {words}" for name, words in shift.figures(digest).items()],
        "hand-over": shift.markdown(digest).splitlines(),
        "advice": [text for one in digest.errors for text in playbook.advice(one.task_type, one.error_kind)],
    }


@pytest.mark.parametrize("world", WORLDS)
def test_what_is_said_of_each_world_is_true_and_said_once(
    conn: Connection, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playbook, "source", SOURCE)
    build, wanted = WORLDS[world]
    build(conn)
    found = rendered(conn)
    text = "\n".join(line for lines in found.values() for line in lines)
    print("\n".join([f"== {world}", *(f"{where:<10}{line}" for where, lines in found.items() for line in lines)]))  # noqa: T201
    assert [pattern for pattern in wanted if not re.search(pattern, text)] == []
    assert UNTRUE.search(text) is None
    assert all(line.endswith(".") for line in found["findings"])
    for where, lines in found.items():
        said = [line for line in lines if line.strip()]
        assert where == "headline" or len(said) == len(set(said)), where
