"""Waves: batches that together cover everyone exactly once, wherever they start and whatever happens between."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.errors import Cancelled, LeaseLost, RetryLater, Snooze
from jobdeck.core.handlers.game_platform_sync import Params
from jobdeck.core.programme.sandbox.metactf import flash_event, solve
from jobdeck.core.programme.sync.roster import Position, read_cursor, write_cursor
from jobdeck.core.registry import Continue, Done
from tests.core.handlers.world import T0, World
from tests.support.context import ended

SAME = "2025-06-01T00:00:00.123456Z"


def _wave(world: World, **payload: Any) -> tuple[list[list[str]], Done]:
    """Runs one job until it is done; returns who was asked about in each run, and the last outcome."""
    context = world.context()
    batches = []
    for _ in range(50):
        world.sandbox.forget()
        outcome = world.sync(context, **payload)
        batches.append([str(who) for _, who in world.asked("odl")])
        if isinstance(outcome, Done):
            return batches, outcome
        context = world.context(checkpoint=outcome.checkpoint, job_id=context.job.id)
    raise AssertionError("the wave never ended")


def _slots(world: World, number: int, **payload: Any) -> tuple[list[list[str]], list[Done]]:
    """Runs this many slots of one series; returns who was asked about in each, and the outcomes."""
    context = world.context()
    batches, outcomes = [], []
    for _ in range(number):
        context.job = context.job._replace(is_recurring=True)
        world.sandbox.forget()
        outcome = ended(world.sync(context, **payload))
        batches.append([str(who) for _, who in world.asked("odl")])
        outcomes.append(outcome)
        context = world.context(checkpoint=outcome.checkpoint, job_id=context.job.id)
    return batches, outcomes


def _flat(batches: list[list[str]]) -> list[str]:
    return sorted(who for batch in batches for who in batch)


def test_a_wave_covers_everyone_once_with_ties_in_time(world: World) -> None:
    people = world.competitors(5, created_at=SAME)
    batches, outcome = _wave(world, mode="wave", batchSize=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert _flat(batches) == sorted(people)
    assert outcome.output["competitors"]["wrapped"] is True
    assert outcome.output["lap"]["done"] == 5


def test_a_batch_that_ends_exactly_with_the_last_one_wraps_at_once(world: World) -> None:
    world.competitors(4)
    batches, _ = _wave(world, batchSize=2)
    assert [len(batch) for batch in batches] == [2, 2]


def test_the_next_job_or_cycle_begins_a_new_lap(world: World) -> None:
    people = world.competitors(3)
    context = world.context()
    first = world.sync(context, batchSize=2)
    assert isinstance(first, Continue)
    context = world.context(checkpoint=first.checkpoint, job_id=context.job.id)
    assert isinstance(world.sync(context, batchSize=2), Done)
    world.sandbox.forget()
    ended(world.sync(world.context(checkpoint=context.checkpoint, job_id=context.job.id), batchSize=3))
    assert sorted(str(who) for _, who in world.asked("odl")) == sorted(people)


@pytest.mark.slow
def test_a_recurring_wave_syncs_one_batch_in_each_slot(world: World) -> None:
    people = world.competitors(5)
    batches, outcomes = _slots(world, 4, batchSize=2)
    assert [len(batch) for batch in batches] == [2, 2, 1, 2]
    assert sorted([*batches[0], *batches[1], *batches[2]]) == sorted(people)
    assert sorted(batches[3]) == sorted(batches[0])
    assert [one.output["competitors"]["wrapped"] for one in outcomes] == [False, False, True, False]
    assert [one.output["lap"]["done"] for one in outcomes] == [2, 4, 5, 2]


def test_a_recurring_wave_syncs_the_teams_when_it_has_come_round(world: World) -> None:
    coach = world.coach()
    world.competitors(3, coach)
    world.team(coach, synced_team_id="t1")
    _, outcomes = _slots(world, 2, batchSize=2)
    assert [one.output["teams"]["total"] for one in outcomes] == [0, 1]


@pytest.mark.slow
def test_a_person_who_fails_counts_in_the_slot_in_which_they_fail(world: World) -> None:
    people = world.competitors(3)
    world.sandbox.rules.add(f"403:scores,user={people[0]}")
    _, outcomes = _slots(world, 3, batchSize=1)
    assert [one.failed for one in outcomes] == [1, 0, 0]


def test_an_empty_table_is_a_finished_wave(world: World) -> None:
    batches, outcome = _wave(world, mode="wave")
    assert batches == [[]]
    assert outcome.failed == 0


def test_a_wave_that_starts_in_the_middle_comes_round_to_those_before(world: World) -> None:
    coach = world.coach()
    people = [world.competitor(coach, created_at=f"2025-06-0{day}T00:00Z") for day in range(1, 6)]
    start = {"createdAt": "2025-06-03T00:00:00+00:00", "id": people[2]}
    batches, _ = _wave(world, batchSize=2, cursor=start)
    assert sorted(batches[0]) == sorted(people[3:])
    assert _flat(batches) == sorted(people)


def test_a_wave_that_starts_after_the_last_one_begins_at_once(world: World) -> None:
    coach = world.coach()
    people = [world.competitor(coach, created_at=f"2025-06-0{day}T00:00Z") for day in range(1, 4)]
    start = {"createdAt": "2025-06-03T00:00:00+00:00", "id": people[2]}
    batches, _ = _wave(world, batchSize=2, cursor=start)
    assert [len(batch) for batch in batches] == [2, 1]
    assert _flat(batches) == sorted(people)


def test_the_cursor_of_a_deleted_competitor_still_marks_its_place(world: World) -> None:
    coach = world.coach()
    people = [world.competitor(coach, created_at=f"2025-06-0{day}T00:00Z") for day in range(1, 5)]
    context = world.context()
    first = world.sync(context, batchSize=2)
    assert isinstance(first, Continue)
    world.conn.execute("delete from competitors where id = %s", (people[1],))
    world.sandbox.forget()
    world.sync(world.context(checkpoint=first.checkpoint, job_id=context.job.id), batchSize=2)
    assert sorted(str(who) for _, who in world.asked("odl")) == sorted(people[2:])


@pytest.mark.parametrize(
    "cursor",
    ["x", 7, [], {}, {"createdAt": "yesterday", "id": str(uuid4())}, {"createdAt": SAME, "id": "no uuid"},
     {"createdAt": "2025-06-01T00:00:00", "id": str(uuid4())}, {"createdAt": None, "id": None}],
)  # fmt: skip
def test_a_malformed_cursor_counts_as_none(world: World, cursor: Any) -> None:
    person = world.competitor(world.coach())
    batches, _ = _wave(world, batchSize=2, cursor=cursor)
    assert batches == [[person]]


def test_a_competitor_who_fails_does_not_hold_the_cursor_up(world: World) -> None:
    people = world.competitors(3)
    world.sandbox.rules.add(f"403:scores,user={people[0]}")
    _, outcome = _wave(world, batchSize=1)
    assert outcome.output["lap"] == {"done": 3, "failed": 1, "teamsFailed": 0}
    assert outcome.failed == 1


@pytest.mark.slow
def test_an_outage_is_noticed_across_the_runs_of_a_wave(world: World) -> None:
    world.competitors(8)
    world.sandbox.rules.add("503:scores")
    context = world.context()
    for _ in range(2):
        outcome = world.sync(context, batchSize=2)
        assert isinstance(outcome, Continue)
        context = world.context(checkpoint=outcome.checkpoint, job_id=context.job.id)
    with pytest.raises(RetryLater, match="could not answer 5 times in a row"):
        world.sync(context, batchSize=2)


def test_everyone_in_one_run_hands_over_when_its_time_is_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobdeck.core.handlers.game_platform_sync.PAGE", 2)
    monkeypatch.setattr("jobdeck.core.programme.sync.lap.RUN_SECONDS", 0.0)
    people = world.competitors(3)
    context = world.context()
    outcome = world.sync(context)
    assert isinstance(outcome, Continue)
    ended(world.sync(world.context(checkpoint=outcome.checkpoint, job_id=context.job.id)))
    assert sorted(str(who) for _, who in world.asked("odl")) == sorted(people)


def test_a_cancelled_run_stops_between_competitors(world: World) -> None:
    world.competitors(20)
    context = world.context()
    context.cancel_when = lambda: len(context.steps) >= 3
    with pytest.raises(Cancelled):
        world.sync(context)
    assert len(world.asked("odl")) < 20
    assert world.conn.row("select status from game_platform_sync_runs")["status"] == "failed"


def test_a_second_sync_of_the_same_competitors_yields(world: World) -> None:
    coach, other = world.coach(), world.coach()
    world.competitor(coach)
    world.conn.execute(
        "insert into game_platform_sync_runs (job_id, coach_id, heartbeat_at) values (%s, %s, now())", (uuid4(), coach)
    )
    with pytest.raises(Snooze, match="Another sync") as busy:
        world.sync()
    assert busy.value.seconds == 60
    with pytest.raises(Snooze):
        world.sync(coachId=str(coach))
    assert world.sandbox.requests == []
    assert isinstance(world.sync(coachId=str(other)), Done)


def test_a_later_attempt_of_the_same_job_takes_over_at_once(world: World) -> None:
    world.competitor(world.coach())
    context = world.context()
    world.conn.execute(
        "insert into game_platform_sync_runs (job_id, heartbeat_at) values (%s, now())", (context.job.id,)
    )
    assert isinstance(world.sync(context), Done)
    assert world.conn.row("select count(*) from game_platform_sync_runs where status = 'failed'")["count"] == 1


def test_a_run_that_fell_silent_gives_its_place_up(world: World) -> None:
    world.competitor(world.coach())
    world.conn.execute(
        "insert into game_platform_sync_runs (job_id, heartbeat_at) values (%s, now() - interval '10 minutes')",
        (uuid4(),),
    )
    assert isinstance(world.sync(), Done)
    stale = world.conn.row("select * from game_platform_sync_runs where status = 'failed'")
    assert "stopped unexpectedly" in stale["error_message"]


def test_a_run_whose_place_was_taken_stores_nothing_more(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1)
    context = world.context()
    world.conn.execute(
        "create function overtake() returns trigger language plpgsql as $$ begin "
        "new.status := 'failed'; return new; end $$"
    )
    world.conn.execute(
        "create trigger overtake before insert on game_platform_sync_runs for each row execute function overtake()"
    )
    with pytest.raises(LeaseLost, match="taken over"):
        world.sync(context)
    assert world.stored(person) == []


WAVE = [(None, False, False), (None, True, True), (True, False, True), (True, True, True), (False, True, False)]


@pytest.mark.parametrize(("sync_teams", "wrapped", "due"), WAVE)
def test_when_a_wave_syncs_teams(sync_teams: bool | None, wrapped: bool, due: bool) -> None:
    assert Params(mode="wave", sync_teams=sync_teams).teams_due(wrapped=wrapped) is due


@pytest.mark.parametrize(
    ("sync_teams", "full", "flash", "due"),
    [(None, False, False, True), (None, True, True, True), (None, True, False, False), (None, False, True, False),
     (True, True, False, True), (True, False, False, True), (False, False, False, False), (False, True, True, False)],
)  # fmt: skip
def test_when_a_full_run_syncs_teams(sync_teams: bool | None, full: bool, flash: bool, due: bool) -> None:
    params = Params(sync_teams=sync_teams, force_full_sync=full, force_flash_ctf_sync=flash)
    assert params.teams_due(wrapped=True) is due
    assert params.teams_due(wrapped=False) is False


@pytest.mark.parametrize(
    ("given", "wave", "limit"),
    [({}, False, 200), ({"mode": "full"}, False, 200), ({"mode": "wave"}, True, 50), ({"batchSize": 7}, True, 7),
     ({"mode": "full", "batchSize": 7}, True, 7), ({"batchSize": 0}, True, 50), ({"batchSize": 7.9}, True, 7),
     ({"batchSize": -3}, True, 1), ({"batchSize": 10**9}, True, 200), ({"batchSize": None}, False, 200)],
)  # fmt: skip
def test_what_makes_a_wave_and_how_large_its_batches_are(given: dict[str, Any], wave: bool, limit: int) -> None:
    params = Params.model_validate(given)
    assert (params.wave, params.limit) == (wave, limit)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["lap", "start", "cursor", "done", "failed", "outages", "finished", "teams_due"])


@given(st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON)))
def test_any_checkpoint_is_read_as_some_position(checkpoint: dict[str, Any]) -> None:
    position = Position.load(checkpoint, None)
    assert Position.load(position.save(), None) == position


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_survives_being_written(at: datetime, person: Any) -> None:
    written = {"createdAt": at.isoformat(), "id": str(person)}
    assert write_cursor(read_cursor(written)) == written


def test_flash_only_is_no_ground_for_the_teams(world: World) -> None:
    person = world.competitor(coach := world.coach())
    world.team(coach, person, synced_team_id="t-1")
    world.account(person).flash = [flash_event("Spring", T0, [solve(1, T0)])]
    assert world.sync(forceFlashCtfSync=True).output["teams"]["total"] == 0
