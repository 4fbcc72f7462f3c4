"""Totals are computed from what is stored, in SQL, and a flag that was raised meanwhile stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.errors import Cancelled, RetryLater
from jobdeck.core.handlers import game_platform_totals_sweep as sweep
from jobdeck.core.programme.sync import totals
from jobdeck.core.registry import Continue
from tests.core.handlers.killing import job_is_gone, kill_while_it_waits, workers
from tests.core.handlers.world import T0, World
from tests.support.context import ended
from tests.support.queue import Connection
from tests.support.waiting import beside, until

DAY = 86_400


def _dirty(world: World, person: str, *, solves: int = 1, minutes_ago: int = 5) -> None:
    """Gives a person ODL solves of 10 points and raises the flag."""
    world.conn.execute(
        "insert into game_platform_challenge_solves (synced_user_id, challenge_solve_id, challenge_points, solved_at) "
        "select %s, n, 10, to_timestamp(%s + n) from generate_series(1, %s) n on conflict do nothing",
        (person, T0, solves),
    )
    world.conn.execute(
        "insert into game_platform_sync_state (synced_user_id, needs_totals_refresh, totals_dirty_at) "
        "values (%s, true, now() - make_interval(mins => %s)) on conflict (synced_user_id) do update "
        "set needs_totals_refresh = true, totals_dirty_at = excluded.totals_dirty_at",
        (person, minutes_ago),
    )


def _stats(world: World, person: str) -> dict[str, Any]:
    return world.conn.row("select * from game_platform_stats where competitor_id = %s", person)


def _flagged(world: World) -> int:
    return int(world.conn.row("select count(*) from game_platform_sync_state where needs_totals_refresh")["count"])


def _people(world: World, count: int) -> list[str]:
    coach = world.coach()
    return [world.competitor(coach, remote=None) for _ in range(count)]


def test_odl_and_flash_are_counted_together_and_the_flag_is_lowered(world: World) -> None:
    (person,) = _people(world, 1)
    _dirty(world, person, solves=3)
    world.conn.execute(
        "insert into game_platform_challenge_solves (synced_user_id, source, event_id, challenge_solve_id, "
        "challenge_points, solved_at) values (%s, 'flash_ctf', 'Spring:1', 1, 100, to_timestamp(%s)), "
        "(%s, 'flash_ctf', 'Spring:1', 2, null, null)",
        (person, T0, person),
    )
    world.conn.execute(
        "insert into game_platform_flash_ctf_events (synced_user_id, event_id, challenges_solved, started_at) "
        "values (%s, 'Spring:1', 2, to_timestamp(%s)), (%s, 'Summer:2', 5, to_timestamp(%s))",
        (person, T0, person, T0 + DAY),
    )
    output = world.run(sweep).output
    assert (output["total"], output["refreshed"], output["failed"]) == (1, 1, 0)
    row = _stats(world, person)
    assert (row["challenges_completed"], row["monthly_ctf_challenges"], row["total_score"]) == (5, 7, 130)
    assert row["last_activity"].timestamp() == T0 + DAY
    assert _flagged(world) == 0
    assert world.sandbox.requests == []


def test_more_than_a_thousand_rows_are_counted_right(world: World) -> None:
    (person,) = _people(world, 1)
    _dirty(world, person, solves=2345)
    world.run(sweep)
    assert (_stats(world, person)["challenges_completed"], _stats(world, person)["total_score"]) == (2345, 23450)


def test_totals_that_are_there_are_updated_and_their_sync_time_stays(world: World) -> None:
    (person,) = _people(world, 1)
    world.conn.execute(
        "insert into game_platform_stats (competitor_id, total_score, synced_at, last_activity) "
        "values (%s, 5, '2025-01-01T00:00Z', now())",
        (person,),
    )
    _dirty(world, person)
    before = _stats(world, person)
    world.run(sweep)
    after = _stats(world, person)
    assert (after["total_score"], after["id"], after["synced_at"]) == (10, before["id"], before["synced_at"])
    assert after["updated_at"] > before["updated_at"]
    assert after["last_activity"].timestamp() == T0 + 1


def test_the_oldest_flags_go_first_in_batches_until_nobody_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = _people(world, 5)
    for place, person in enumerate(people):
        _dirty(world, person, minutes_ago=10 + place)
    taken: list[Sequence[UUID]] = []
    refresh = totals.refresh

    def watched(conn: Any, ids: Sequence[UUID]) -> int:
        taken.append(ids)
        return refresh(conn, ids)

    monkeypatch.setattr(totals, "refresh", watched)
    context = world.context()
    assert world.run(sweep, context, batchSize=2).output["refreshed"] == 5
    assert [str(one) for batch in taken for one in batch] == people[::-1]
    assert [len(batch) for batch in taken] == [2, 2, 1]
    assert context.steps == [(2, 5, "competitors"), (4, 5, "competitors"), (5, 5, "competitors")]


def test_the_coach_filter_is_applied_before_the_limit(world: World) -> None:
    for person in _people(world, 4):
        _dirty(world, person, minutes_ago=60)
    coach = world.coach()
    person = world.competitor(coach, remote=None)
    _dirty(world, person)
    output = world.run(sweep, coachId=str(coach), batchSize=1).output
    assert (output["refreshed"], output["sample"]) == (1, [person])
    assert _flagged(world) == 4


def test_flags_without_a_competitor_are_reported_and_take_no_place(world: World) -> None:
    (person,) = _people(world, 1)
    for number in range(3):
        _dirty(world, f"gone-{number}", minutes_ago=100)
    _dirty(world, person)
    output = world.run(sweep, batchSize=1).output
    assert output["refreshed"] == 1
    assert output["orphans"] == {"total": 3, "sample": ["gone-0", "gone-1", "gone-2"]}
    assert _stats(world, person)["total_score"] == 10


def test_a_solve_that_comes_in_during_the_sweep_keeps_the_flag(world: World, database_url: str) -> None:
    """The sweep has its snapshot and waits for the row; the sync commits a newer solve before it gets there."""
    (person,) = _people(world, 1)
    _dirty(world, person)
    with Connection.connect(database_url) as sync, Connection.connect(database_url, autocommit=True) as looker:
        sync.execute(
            "insert into game_platform_challenge_solves (synced_user_id, challenge_solve_id, challenge_points) "
            "values (%s, 99, 500)",
            (person,),
        )
        sync.execute("update game_platform_sync_state set totals_dirty_at = clock_timestamp()")
        other = World(looker, world.sandbox)

        def commit_once_the_sweep_waits() -> None:
            until(
                lambda: other.conn.row("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")["count"]
            )
            sync.commit()

        with beside(commit_once_the_sweep_waits):
            totals.refresh(world.conn, [UUID(person)])
    assert _stats(world, person)["total_score"] == 10
    assert _flagged(world) == 1
    world.run(sweep)
    assert _stats(world, person)["total_score"] == 510
    assert _flagged(world) == 0


def test_a_flag_raised_again_while_the_run_is_going_on_waits_for_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = _people(world, 3)
    for person in people:
        _dirty(world, person)
    refresh = totals.refresh
    calls: list[int] = []

    def busy(conn: Any, ids: Any) -> int:
        done = refresh(conn, ids)
        calls.append(len(ids))
        conn.execute("update game_platform_sync_state set needs_totals_refresh = true, totals_dirty_at = now()")
        return done

    monkeypatch.setattr(totals, "refresh", busy)
    assert world.run(sweep, batchSize=3).output["refreshed"] == 3
    assert calls == [3]
    assert _flagged(world) == 3


def test_everybody_is_swept_through_one_job_that_hands_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "RUN_SECONDS", 0.0)
    people = _people(world, 5)
    for person in people:
        _dirty(world, person)
    world.conn.execute("update game_platform_sync_state set needs_totals_refresh = false")
    context, runs = world.context(), 0
    while isinstance(outcome := world.run(sweep, context, forceAll=True, batchSize=2), Continue):
        context, runs = world.successor(context), runs + 1
    assert runs == 3
    assert outcome.output["refreshed"] == 5
    assert {_stats(world, person)["total_score"] for person in people} == {10}
    assert world.conn.row("select count(*) from job_queue")["count"] == 0


def test_a_cursor_starts_a_sweep_of_everybody_after_that_competitor(world: World) -> None:
    people = sorted(_people(world, 4))
    output = world.run(sweep, forceAll=True, cursor={"id": people[1]}).output
    assert output["sample"] == people[2:]
    assert world.run(sweep, forceAll=True, cursor={"id": "nonsense"}).output["refreshed"] == 4


def test_a_killed_sweep_of_everybody_goes_on_from_its_checkpoint(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people = _people(world, 4)
    for person in people:
        _dirty(world, person)
    refresh, context = totals.refresh, world.context()

    def dies(conn: Any, ids: Any) -> int:
        if context.checkpoint:
            raise SystemExit
        return refresh(conn, ids)

    monkeypatch.setattr(totals, "refresh", dies)
    with pytest.raises(SystemExit):
        world.run(sweep, context, forceAll=True, batchSize=2)
    monkeypatch.setattr(totals, "refresh", refresh)
    assert world.run(sweep, world.successor(context), forceAll=True, batchSize=2).output["refreshed"] == 4
    assert {_stats(world, person)["total_score"] for person in people} == {10}


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 2])
def test_a_killed_worker_leaves_the_rest_to_another(world: World, database_url: str, tmp_path: Path, done: int) -> None:
    people = sorted(_people(world, 5))
    for person in people:
        _dirty(world, person)
    payload = {"forceAll": True, "batchSize": 2}
    job = world.conn.add("game_platform_totals_sweep", payload=payload)
    with workers(database_url, world.sandbox, tmp_path) as crew:
        with Connection.connect(database_url) as holder:
            holder.execute("insert into game_platform_stats (competitor_id) values (%s)", (people[done],))
            kill_while_it_waits(crew, holder, world.conn)
            holder.rollback()
        assert _flagged(world) == 5 - done
        crew.start()
        until(lambda: job_is_gone(world.conn, job.id), "the end of the job")
    assert {_stats(world, person)["total_score"] for person in people} == {10}
    assert _flagged(world) == 0
    assert world.conn.outcomes(job.id) == ["lost", "succeeded"]


def _poison(world: World, person: str) -> None:
    world.conn.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$begin raise exception 'Zzlast is refused' using errcode = 'check_violation'; end$$"
    )
    world.conn.execute(
        f"create trigger refuse before insert on game_platform_stats for each row "
        f"when (new.competitor_id = '{person}') execute function refuse()".encode()
    )


def test_one_poisoned_competitor_fails_alone(world: World) -> None:
    people = _people(world, 4)
    for person in people:
        _dirty(world, person)
    _poison(world, people[1])
    outcome = ended(world.run(sweep))
    assert (outcome.failed, outcome.output["refreshed"]) == (1, 3)
    assert outcome.output["errors"][0]["competitorId"] == people[1]
    assert "Zz" not in str(outcome.output)
    assert _flagged(world) == 1


def test_nobody_stored_fails_the_job_with_a_retry(world: World) -> None:
    (person,) = _people(world, 1)
    _dirty(world, person)
    _poison(world, person)
    with pytest.raises(RetryLater, match="All 1 competitors failed"):
        world.run(sweep)


def test_sums_that_do_not_fit_are_cut_and_do_not_fail_anybody(world: World) -> None:
    (person,) = _people(world, 1)
    _dirty(world, person)
    world.conn.execute("update game_platform_challenge_solves set challenge_points = 2147483647")
    world.conn.execute(
        "insert into game_platform_challenge_solves (synced_user_id, challenge_solve_id, challenge_points) "
        "values (%s, 50, 2147483647)",
        (person,),
    )
    world.run(sweep)
    assert _stats(world, person)["total_score"] == 2**31 - 1


def test_a_cancelled_sweep_stops_between_batches(world: World) -> None:
    for person in _people(world, 4):
        _dirty(world, person)
    context = world.context()
    context.cancel_when = lambda: _flagged(world) <= 2
    with pytest.raises(Cancelled):
        world.run(sweep, context, batchSize=2)
    assert _flagged(world) == 2


def test_nothing_to_do_is_zeros(world: World) -> None:
    output = world.run(sweep).output
    assert (output["total"], output["refreshed"], output["orphans"]["total"]) == (0, 0, 0)


@pytest.mark.parametrize("payload", [{}, {"forceAll": True}])
@pytest.mark.parametrize("settings", [{}, {"GAME_PLATFORM_INTEGRATION_ENABLED": "false"}])
def test_a_dry_run_leaves_every_table_as_it_was_and_enqueues_nothing(
    world: World, payload: dict[str, Any], settings: dict[str, Any]
) -> None:
    people = _people(world, 3)
    _dirty(world, people[0])
    _dirty(world, "gone-1")
    before = world.everything()
    context = world.context(**settings)
    output = world.run(sweep, context, **payload, dryRun=not settings).output
    assert world.everything() == before
    assert context.checkpoint is None
    assert world.conn.row("select count(*) from job_queue")["count"] == 0
    assert output["dryRun"] is True
    assert output["total"] == (3 if payload else 1)
    assert (output["flagged"], output["orphans"]["total"]) == (1, 1)
    assert len(output["sample"]) == output["total"]


def test_a_quiet_sync_keeps_the_flag_and_the_sweep_lowers_it(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1, 2)
    world.sync()
    world.sync()
    assert _flagged(world) == 1
    world.run(sweep)
    assert _stats(world, person)["challenges_completed"] == 2
    assert _flagged(world) == 0
