"""Trends with the backlog and marks, and the recurring jobs with their streaks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from jobdeck.core.errors import UsageError
from jobdeck.core.queue import operator, presence
from jobdeck.core.read.pages.series import SeriesLine, series
from jobdeck.core.read.stats.backlog import Waiting, trend_report
from tests.support.queue import ACTOR, Connection

HOUR = timedelta(hours=1)


def counted(waiting: Sequence[Waiting | None]) -> list[Waiting]:
    """What was counted, in whichever of the last buckets."""
    return [one for one in waiting if one is not None]


def test_the_backlog_of_each_bucket_is_that_of_all_or_of_one_type_and_unknown_where_nobody_counted(
    conn: Connection,
) -> None:
    for name in ("alpha", "alpha", "beta"):
        conn.add(name)
    conn.execute("SELECT job_backlog_sample()")
    found = trend_report(6 * HOUR).run(conn)
    assert counted(found.waiting()) == [Waiting(3, at_least=False)]
    assert counted(found.waiting("alpha")) == [Waiting(2, at_least=False)]
    assert counted(found.waiting("gamma")) == [Waiting(0, at_least=False)]
    only = trend_report(6 * HOUR, task_type="beta").run(conn)
    assert counted(only.waiting("beta")) == [Waiting(1, at_least=False)]
    assert set(only.backlog) == {"", "beta"}


@pytest.mark.parametrize("hours", [1, 6, 24, 7 * 24, 30 * 24])
def test_each_window_reads_the_backlog_in_its_own_steps(conn: Connection, hours: int) -> None:
    conn.add()
    conn.execute("SELECT job_backlog_sample()")
    found = trend_report(hours * HOUR).run(conn)
    assert counted(found.waiting()) == [Waiting(1, at_least=False)]
    assert len(found.trends.buckets) <= 101


def test_pauses_resumes_and_releases_are_marks_in_their_order(conn: Connection) -> None:
    presence.declare_values(conn, (), release="shop@1.9", worker_id="")
    conn.advance(2 * HOUR)
    operator.pause(conn, reason="down", actor=ACTOR, task_type="alpha")
    operator.pause(conn, reason=None, actor=ACTOR)
    operator.resume(conn, actor=ACTOR, task_type="alpha")
    presence.declare_values(conn, (), release="shop@1.9", worker_id="")
    presence.declare_values(conn, (), release="shop@2.0", worker_id="")
    found = trend_report(6 * HOUR).run(conn)
    assert [(mark.kind, mark.name) for mark in found.marks] == [
        ("release", "shop@1.9"), ("pause", "alpha"), ("pause", None), ("resume", "alpha"), ("release", "shop@2.0"),
    ]  # fmt: skip
    of_beta = trend_report(6 * HOUR, task_type="beta").run(conn)
    assert [mark.name for mark in of_beta.marks] == ["shop@1.9", None, "shop@2.0"]
    assert [mark.name for mark in trend_report(HOUR).run(conn).marks] == ["alpha", None, "alpha", "shop@2.0"]


@pytest.mark.parametrize("window", [timedelta(0), -HOUR, timedelta(days=31)])
def test_a_window_that_cannot_be_is_refused(window: timedelta) -> None:
    with pytest.raises(UsageError, match="between 5 minutes and 30 days"):
        trend_report(window)


# Series


def the_line(conn: Connection) -> SeriesLine:
    (found,) = series().run(conn).series
    return found


def end(conn: Connection, outcome: str) -> None:
    """Ends the next run of the series, whenever it is due."""
    conn.execute("UPDATE job_queue SET run_at = now(), slot_at = NULL WHERE is_recurring")
    conn.finish_one(conn.claim_one(), outcome, error="boom", permanent=True, checkpoint={})


@pytest.mark.slow
def test_the_streak_is_how_many_last_runs_ended_alike(conn: Connection) -> None:
    conn.add(run_at=conn.now() + HOUR, recurrence_interval_minutes=60)
    assert (the_line(conn).streak, the_line(conn).streak_is_least) == (0, False)
    for outcome, streak in (("succeeded", 1), ("partial", 2), ("failed", -1), ("failed", -2), ("succeeded", 1)):
        end(conn, outcome)
        assert the_line(conn).streak == streak
    for _ in range(20):
        end(conn, "succeeded")
    assert (the_line(conn).streak, the_line(conn).streak_is_least) == (20, True)


def test_a_released_run_is_no_part_of_a_streak(conn: Connection) -> None:
    conn.add(run_at=conn.now() + HOUR, recurrence_interval_minutes=60)
    end(conn, "succeeded")
    end(conn, "released")
    assert the_line(conn).streak == 1


def test_a_series_is_late_while_it_is_due_and_has_not_begun(conn: Connection) -> None:
    conn.add(run_at=conn.now() - 2 * HOUR, recurrence_interval_minutes=60)
    late = the_line(conn).late
    assert late is not None
    assert late >= 2 * HOUR
    claimed = conn.claim_one()
    assert the_line(conn).late is None
    conn.finish_one(claimed)
    assert the_line(conn).late is None
    assert the_line(conn).job.run_at > conn.now()


def test_only_series_are_listed_by_type_and_the_first_200_say_that_there_are_more(conn: Connection) -> None:
    conn.add("zeta", run_at=conn.now() + HOUR, recurrence_interval_minutes=5)
    conn.add("alpha", recurrence_interval_minutes=5)
    conn.add("once")
    found = series().run(conn)
    assert [one.job.task_type for one in found.series] == ["alpha", "zeta"]
    assert not found.more
    conn.execute(
        """
        INSERT INTO job_queue (task_type, run_at, is_recurring, recurrence_interval_minutes)
        SELECT 'crowd', now() + interval '1 minute', true, 5 FROM generate_series(1, 199)
        """
    )
    found = series().run(conn)
    assert found.more
    assert len(found.series) == 200
    assert "zeta" not in {one.job.task_type for one in found.series}


def test_trends_of_the_runs_are_in_the_report(conn: Connection) -> None:
    conn.add()
    conn.run_once()
    conn.ended_now()
    assert trend_report(HOUR).run(conn).trends.total("alpha").succeeded == 1
