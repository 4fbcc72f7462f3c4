"""What will start when a pause ends: how many jobs and catch-up runs, how long a rate takes, how many at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.queue import bulk, operator
from jobdeck.core.read.pages.outlook import outlook
from jobdeck.core.read.report_types import Counts
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection

HOUR = timedelta(hours=1)


def words(conn: Connection, *types: str) -> str:
    return outlook(types or None, resumed=types[0] if types else None).run(conn).words


def limit(conn: Connection, **changes: Any) -> None:
    operator.set_type(conn, "alpha", changes=changes, actor=ACTOR, reason=None)


def test_without_due_jobs_nothing_starts(conn: Connection) -> None:
    conn.add(run_at=conn.now() + HOUR)
    assert words(conn) == "No job is due."


def test_the_jobs_the_rate_and_the_slots_are_named(conn: Connection) -> None:
    announce(conn, concurrency=8)
    limit(conn, rate_runs=60, rate_seconds=60, max_running=5)
    conn.execute("INSERT INTO job_queue (task_type) SELECT 'alpha' FROM generate_series(1, 1204)")
    assert words(conn, "alpha") == "1,204 jobs start, about 20 minutes at the limit of 60/m, at most 5 at once."
    limit(conn, rate_runs=None, rate_seconds=None, max_running=None)
    assert words(conn, "alpha") == "1,204 jobs start, at most 8 at once."


def test_types_of_one_kind_share_its_slots_and_few_jobs_are_no_more_at_once(conn: Connection) -> None:
    announce(conn, types=["alpha", "beta"], concurrency=8)
    for name in ("alpha", "alpha", "beta"):
        conn.add(name)
    assert words(conn) == "3 jobs start, at most 3 at once."
    for name in ("alpha", "beta"):
        conn.execute("INSERT INTO job_queue (task_type) SELECT %s FROM generate_series(1, 20)", [name])
    assert words(conn) == "43 jobs start, at most 8 at once."
    assert words(conn, "beta") == "21 jobs start, at most 8 at once."


def test_a_series_that_makes_up_for_its_slots_has_its_catch_up_runs_counted(conn: Connection) -> None:
    announce(conn)
    late = conn.now() - 13.5 * HOUR
    conn.add(dedupe_key="a", run_at=late, schedule={"seconds": 3600, "catch_up": "all"})
    conn.add("beta", recurrence_interval_minutes=60, run_at=late)
    assert words(conn, "alpha") == "1 job starts, 13 catch-up runs of alpha, at most 1 at once."
    assert words(conn, "beta") == "1 job starts, no worker handles it."


def test_everything_leaves_out_types_that_stay_paused(conn: Connection) -> None:
    announce(conn)
    conn.add()
    operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
    assert words(conn) == "No job is due."
    assert words(conn, "alpha") == "1 job starts, at most 1 at once."


def test_jobs_that_are_retried_are_added_to_those_that_are_due(conn: Connection) -> None:
    announce(conn, concurrency=8)
    limit(conn, rate_runs=60, rate_seconds=60)
    failed = [conn.add(payload={"n": number}, max_attempts=1).id for number in range(3)]
    for claimed in conn.claim():
        conn.finish_one(claimed, "failed")
    due, later = conn.add(), conn.add(run_at=conn.now() + HOUR)
    choice = bulk.choose_ids(conn, dict.fromkeys([*failed, due.id, later.id]), actor=ACTOR)
    found = outlook(choice.types, retried=choice.bulk.id).run(conn)
    assert found.words == "5 jobs start, less than a minute at the limit of 60/m, at most 5 at once."
    operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
    assert outlook(choice.types, retried=choice.bulk.id).run(conn).words == "No job is due."


def test_jobs_of_a_type_that_share_one_key_start_as_many_at_once_as_the_key_may_have(conn: Connection) -> None:
    announce(conn, concurrency=8)
    failed = [conn.add(payload={"n": number}, max_attempts=1).id for number in range(3)]
    for claimed in conn.claim():
        conn.finish_one(claimed, "failed")
    choice = bulk.choose_ids(conn, dict.fromkeys(failed), actor=ACTOR)
    asked = outlook(choice.types, retried=choice.bulk.id)
    for rule, most in (("payload:n", 3), ("type", 1), ("key:vendor", 1)):
        conn.execute(
            "INSERT INTO job_types (task_type, concurrency) VALUES ('alpha', %s) "
            "ON CONFLICT (task_type) DO UPDATE SET concurrency = excluded.concurrency",
            [rule],
        )
        assert asked.run(conn).words == f"3 jobs start, at most {most} at once."
    limit(conn, max_per_key=2)
    assert asked.run(conn).words == "3 jobs start, at most 2 at once."


def test_jobs_behind_a_key_are_counted_and_start_once_it_is_free(conn: Connection) -> None:
    announce(conn, concurrency=8)
    for key in ("a", "a", "a", "b"):
        conn.add(concurrency_key=key)
    conn.add(concurrency_key="a", run_at=conn.now() + HOUR)
    assert words(conn, "alpha") == "4 jobs start, 2 of them once their key is free, at most 2 at once."
    conn.claim(limit=2)
    assert words(conn, "alpha") == "2 jobs start, all of them once their key is free, at most 1 at once."
    conn.add(concurrency_key="b")
    assert words(conn, "alpha") == "3 jobs start, all of them once their key is free, at most 2 at once."


def test_a_job_behind_one_of_a_paused_type_starts_after_it_and_has_a_worker(conn: Connection) -> None:
    announce(conn, types=["alpha", "beta"])
    for name in ("beta", "alpha"):
        conn.add(name, concurrency_key="a")
    operator.pause(conn, reason=None, actor=ACTOR, task_type="beta")
    assert words(conn) == "1 job starts, once its key is free, at most 1 at once."


def test_of_many_jobs_behind_keys_those_of_the_asked_types_are_counted_up_to_a_limit(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counts, "LIMIT", 3)
    announce(conn, types=["alpha", "beta"], concurrency=8)
    for name in (*["beta"] * 6, *["alpha"] * 3):
        conn.add(name, concurrency_key=name)
    assert words(conn, "alpha") == "3 jobs start, 2 of them once their key is free, at most 1 at once."
    assert words(conn, "beta") == "5+ jobs start, 4+ of them once their key is free, at most 1 at once."


def test_of_retried_jobs_with_one_key_as_many_are_free_as_its_limit_lets(conn: Connection) -> None:
    announce(conn, types=["alpha", "beta"], concurrency=8)
    failed = [conn.add(name, concurrency_key="a", payload={"n": number}, max_attempts=1).id
              for number, name in enumerate(("alpha", "alpha", "beta"))]  # fmt: skip
    for _ in failed:
        conn.run_once(("alpha", "beta"), "failed")
    failed.append(conn.add(max_attempts=1).id)
    conn.run_once(outcome="failed")
    choice = bulk.choose_ids(conn, dict.fromkeys(failed), actor=ACTOR)
    asked = outlook(choice.types, retried=choice.bulk.id)
    assert asked.run(conn).words == "4 jobs start, 2 of them once their key is free, at most 2 at once."
    limit(conn, max_per_key=2)
    assert asked.run(conn).words == "4 jobs start, 1 of them once its key is free, at most 3 at once."
    limit(conn, max_per_key=None)
    conn.add("beta", concurrency_key="a")
    conn.claim(("beta",))
    assert asked.run(conn).words == "4 jobs start, 3 of them once their key is free, at most 2 at once."


def test_a_worker_that_is_to_start_adds_its_slots(conn: Connection) -> None:
    announce(conn, concurrency=2)
    for name in ("alpha", "beta"):
        conn.execute("INSERT INTO job_queue (task_type) SELECT %s FROM generate_series(1, 20)", [name])
    slots = {"alpha": ("thread", 4), "beta": ("async", 100)}
    assert outlook(slots=slots).run(conn).words == "40 jobs start, at most 26 at once."


def test_more_types_that_catch_up_than_are_named_are_counted(conn: Connection) -> None:
    for name in ("a", "b", "c", "d"):
        late = conn.now() - 2.5 * HOUR
        conn.add(name, dedupe_key=name, run_at=late, schedule={"seconds": 3600, "catch_up": "all"})
    assert "2 catch-up runs of c, catch-up runs of 1 more type, no worker" in words(conn)
