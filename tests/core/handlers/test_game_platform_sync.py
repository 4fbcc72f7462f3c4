"""What one sync stores of each competitor, and what it leaves alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobdeck.core.errors import RetryLater
from jobdeck.core.programme.sandbox.metactf import flash_event, solve
from jobdeck.core.registry import Done
from tests.core.handlers.world import T0, World
from tests.support.context import ended

DAY = 86_400
OVERLAP = 600


def _unix(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(("status", "result"), [(403, "not_approved"), (404, "remote_missing")])
def test_a_refused_competitor_keeps_watermark_and_totals_flag(world: World, status: int, result: str) -> None:
    refused, other = world.competitors(2)
    world.solves(refused, 1, 2)
    world.sync()
    before = world.state(refused)
    world.sandbox.rules.add(f"{status}:scores,user={refused}")
    outcome = world.sync()
    after = world.state(refused)
    kept = ("last_odl_watermark_unix", "last_odl_synced_at", "last_odl_full_at", "needs_totals_refresh",
            "totals_dirty_at", "last_flash_checked_at")  # fmt: skip
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (after["last_result"], after["last_odl_result"]) == ("failure", "failure")
    assert isinstance(outcome, Done)
    assert outcome.output["competitors"]["byStatus"] == {result: 1, "unchanged": 1}
    assert outcome.failed == 1
    assert world.state(other)["last_result"] == "success"


def test_a_refusal_keeps_the_real_account_status_and_goes_to_health(world: World) -> None:
    person, other = world.competitor(coach := world.coach()), world.competitor(coach)
    world.account(person).status = "pending_approval"
    world.sync()
    assert world.mapping(person)["status"] == "pending_approval"
    assert "not approved" in world.mapping(person)["sync_error"]
    assert "metactf_user_status: pending_approval" in world.state(person)["error_message"]
    assert world.person(person)["game_platform_sync_error"]
    assert world.mapping(other)["status"] == "approved"


def test_flash_failing_leaves_its_dates_and_moves_the_odl_watermark(world: World) -> None:
    person, _ = world.competitor(coach := world.coach()), world.competitor(coach)
    world.solves(person, 1)
    world.sandbox.rules.add(f"500:flash,user={person}")
    outcome = world.sync()
    state = world.state(person)
    assert isinstance(outcome, Done)
    assert outcome.output["competitors"]["byStatus"] == {"partial": 1, "unchanged": 1}
    assert state["last_odl_watermark_unix"] == T0
    assert state["last_flash_checked_at"] is None
    assert (state["last_odl_result"], state["last_flash_result"]) == ("success", "failure")
    assert state["last_result"] == "failure"
    assert world.stored(person) == [("", 1)]


def test_solve_ids_that_collide_between_events_are_all_kept(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1819)
    world.account(person).flash = [
        flash_event("Spring", T0 + DAY, [solve(1819, T0 + DAY + 5), solve(1820, T0 + DAY + 6)]),
        flash_event("Summer", T0 + 2 * DAY, [solve(1819, T0 + 2 * DAY + 5)]),
    ]
    world.sync()
    assert world.stored(person) == [("", 1819)]
    assert world.stored(person, "flash_ctf") == [
        (f"Spring:{T0 + DAY}", 1819),
        (f"Spring:{T0 + DAY}", 1820),
        (f"Summer:{T0 + 2 * DAY}", 1819),
    ]


def test_while_the_originals_key_is_there_a_row_keeps_its_id_and_the_others_are_counted(world: World) -> None:
    person = world.competitor(world.coach())
    world.conn.execute(
        "ALTER TABLE game_platform_challenge_solves "
        "ADD CONSTRAINT of_original UNIQUE (synced_user_id, challenge_solve_id)"
    )
    world.solves(person, 1819)
    summer = [solve(1819, T0 + 2 * DAY + 5), solve(1820, T0 + 2 * DAY + 6), solve(1820, T0 + 2 * DAY + 7)]
    world.account(person).flash = [
        flash_event("Spring", T0 + DAY, [solve(1820, T0 + DAY + 6)]),
        flash_event("Summer", T0 + 2 * DAY, summer),
    ]
    outcome = world.sync()
    assert outcome.output["competitors"]["collisions"] == 3
    assert world.stored(person) == [("", 1819)]
    assert world.stored(person, "flash_ctf") == [(f"Spring:{T0 + DAY}", 1820)]
    world.conn.execute("ALTER TABLE game_platform_challenge_solves DROP CONSTRAINT of_original")
    world.sync(forceFlashCtfSync=True)
    assert len(world.stored(person, "flash_ctf")) == 3


def test_the_same_id_twice_in_one_answer_is_counted_and_stops_nothing(world: World) -> None:
    person = world.competitor(world.coach())
    world.account(person).solves = [solve(7, T0), solve(7, T0 + 60), solve(8, T0 + 90)]
    outcome = world.sync()
    assert outcome.output["competitors"]["collisions"] == 1
    assert world.stored(person) == [("", 7), ("", 8)]


def test_a_second_sync_with_changes_renews_the_time_of_the_totals_flag(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1)
    world.sync()
    first = world.state(person)
    world.solves(person, 2, at=T0 + DAY)
    world.sync()
    second = world.state(person)
    assert first["needs_totals_refresh"]
    assert second["needs_totals_refresh"]
    assert second["totals_dirty_at"] > first["totals_dirty_at"]


def test_one_poisoned_competitor_stops_nobody_else(world: World) -> None:
    people = world.competitors(5)
    for person in people:
        world.solves(person, 1)
    world.sandbox.rules.add(f"schema:scores,user={people[2]}")
    outcome = ended(world.sync())
    assert outcome.failed == 1
    assert [bool(world.stored(person)) for person in people] == [True, True, False, True, True]


def test_an_unknown_field_that_is_nested_too_deeply_stops_nobody_else(world: World) -> None:
    people = world.competitors(5)
    for person in people:
        world.solves(person, 1)
    nested: list[object] = []
    for _ in range(300):
        nested = [nested]
    world.account(people[2]).solves[0]["of_the_vendor"] = nested
    outcome = ended(world.sync())
    assert outcome.failed == 1
    assert "nested in more than 64 levels" in outcome.output["competitors"]["errors"][0]["message"]
    assert [bool(world.stored(person)) for person in people] == [True, True, False, True, True]


def test_values_the_database_refuses_are_that_competitors_error_alone(world: World) -> None:
    coach = world.coach()
    clash, other = world.competitor(coach), world.competitor(coach)
    world.conn.execute("delete from game_platform_profiles where competitor_id = %s", (clash,))
    world.conn.execute(
        "insert into game_platform_profiles (coach_id, metactf_role, synced_user_id) values (%s, 'coach', %s)",
        (coach, clash),
    )
    world.solves(clash, 1)
    world.solves(other, 1)
    outcome = ended(world.sync())
    assert outcome.failed == 1
    assert "game_platform_profiles_synced_user_id_key" in outcome.output["competitors"]["errors"][0]["message"]
    assert world.stored(clash) == []
    assert world.state(clash)["last_odl_watermark_unix"] is None
    assert world.stored(other) == [("", 1)]


def test_text_that_postgres_cannot_hold_is_stored_harmlessly(world: World) -> None:
    person = world.competitor(world.coach())
    world.account(person).solves = [solve(1, T0) | {"challenge_title": "a\x00b\ud800c", "extra": {"deep": "\x00"}}]
    world.sync()
    row = world.conn.row("select challenge_title, raw_payload from game_platform_challenge_solves")
    assert row["challenge_title"] == "a\ufffdb\ufffdc"
    assert row["raw_payload"]["extra"] == {"deep": "\ufffd"}


def test_the_stored_payload_keeps_what_the_vendor_adds(world: World) -> None:
    person = world.competitor(world.coach())
    sent = solve(1, T0) | {"new_field": [1, {"a": None}]}
    world.account(person).solves = [sent]
    world.sync()
    assert world.conn.row("select raw_payload from game_platform_challenge_solves")["raw_payload"] == sent


def test_a_run_for_one_coach_moves_no_other_coachs_watermark(world: World) -> None:
    mine, theirs = world.coach(), world.coach()
    person, stranger = world.competitor(mine), world.competitor(theirs)
    world.solves(person, 1)
    world.solves(stranger, 1)
    world.sync(coachId=str(mine))
    assert world.state(person)["last_odl_watermark_unix"] == T0
    assert world.state(stranger)["last_odl_watermark_unix"] is None
    assert world.stored(stranger) == []


@pytest.mark.slow
def test_a_failed_competitor_gets_the_old_window_again(world: World) -> None:
    person, _ = world.competitor(coach := world.coach()), world.competitor(coach)
    world.solves(person, 1)
    world.sync()
    world.solves(person, 2, at=T0 + DAY)
    rule = world.sandbox.rules.add(f"500:scores,user={person}")
    world.sync()
    assert world.stored(person) == [("", 1)]
    world.sandbox.rules.remove(rule)
    world.sync()
    assert world.stored(person) == [("", 1), ("", 2)]


def test_solves_entered_late_are_caught_by_the_overlap(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1, at=T0 + OVERLAP)
    world.sync()
    world.solves(person, 2, at=T0 + 1)
    assert world.sync().output["competitors"]["newSolves"] == 1
    assert world.state(person)["last_odl_watermark_unix"] == T0 + OVERLAP


def test_once_a_day_the_whole_history_is_fetched_for_what_came_later_still(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1, at=T0 + DAY)
    world.sync()
    world.solves(person, 2, at=T0)
    world.sync()
    assert world.stored(person) == [("", 1)]
    world.conn.execute("update game_platform_sync_state set last_odl_full_at = now() - interval '25 hours'")
    world.sync()
    assert world.stored(person) == [("", 1), ("", 2)]


def test_a_full_sync_fetches_the_whole_history_now(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1, at=T0 + DAY)
    world.sync()
    world.solves(person, 2, at=T0)
    world.sync(forceFullSync=True)
    assert world.stored(person) == [("", 1), ("", 2)]


def test_a_solve_dated_in_the_future_does_not_carry_the_watermark_away(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1, at=4_000_000_000)
    world.sync()
    watermark = world.state(person)["last_odl_watermark_unix"]
    assert abs(_unix(watermark) - datetime.now(UTC)) < timedelta(hours=1)


def test_times_in_milliseconds_are_refused_rather_than_stored(world: World) -> None:
    person, _ = world.competitor(coach := world.coach()), world.competitor(coach)
    world.solves(person, 1, at=T0 * 1000)
    outcome = world.sync()
    assert "milliseconds" in outcome.output["competitors"]["errors"][0]["message"]
    assert world.stored(person) == []


def test_a_quiet_sync_keeps_the_pending_totals_flag_and_its_time(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1)
    world.sync()
    first = world.state(person)
    assert first["needs_totals_refresh"]
    world.sync()
    second = world.state(person)
    assert second["needs_totals_refresh"]
    assert second["totals_dirty_at"] == first["totals_dirty_at"]


def test_only_rows_that_were_not_there_count_as_new(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1, 2)
    assert world.sync().output["competitors"]["newSolves"] == 2
    again = world.sync(forceFullSync=True).output["competitors"]
    assert (again["newSolves"], again["byStatus"]) == (0, {"unchanged": 1})


def test_no_news_from_one_source_erases_nothing_of_the_other(world: World) -> None:
    person = world.competitor(world.coach())
    world.account(person).last_accessed = T0
    world.account(person).flash = [flash_event("Spring", T0, [solve(1, T0 + 5)])]
    world.sync()
    before = world.state(person)
    assert before["last_flash_ctf_synced_at"] == _unix(T0)
    world.account(person).last_accessed = 0
    world.sync()
    after = world.state(person)
    kept = ("last_flash_ctf_synced_at", "last_remote_accessed_at", "last_login_at", "last_flash_checked_at")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_flash_is_asked_for_again_only_when_due(world: World) -> None:
    person = world.competitor(world.coach())
    world.sync()
    world.sandbox.forget()
    world.sync()
    assert world.asked("flash") == []
    world.conn.execute("update game_platform_sync_state set last_flash_checked_at = now() - interval '6 hours'")
    world.sync()
    assert [who for _, who in world.asked("flash")] == [person]


@pytest.mark.slow
def test_how_far_and_how_often_is_asked_are_settings(world: World) -> None:
    person = world.competitor(world.coach())
    world.solves(person, 1, at=T0 + DAY)
    world.sync()
    world.solves(person, 2, at=T0 + DAY - OVERLAP - 60)
    assert world.sync().output["competitors"]["newSolves"] == 0
    context = world.context(GAME_PLATFORM_OVERLAP_SECONDS=2 * OVERLAP)
    assert world.sync(context).output["competitors"]["newSolves"] == 1
    world.conn.execute(
        "update game_platform_sync_state set last_odl_full_at = now() - interval '90 minutes', "
        "last_flash_checked_at = now() - interval '90 minutes'"
    )
    world.solves(person, 3, at=T0)
    world.sandbox.forget()
    world.sync()
    assert world.asked("flash") == []
    assert world.stored(person) == [("", 1), ("", 2)]
    world.sync(world.context(GAME_PLATFORM_FULL_HOURS=1.5, GAME_PLATFORM_FLASH_HOURS=1))
    assert [who for _, who in world.asked("flash")] == [person]
    assert world.stored(person) == [("", 1), ("", 2), ("", 3)]


def test_an_event_known_from_anyone_makes_flash_due_for_everyone(world: World) -> None:
    people = world.competitors(3)
    world.sync()
    world.conn.execute("update game_platform_sync_state set last_flash_checked_at = now() - interval '1 hour'")
    world.conn.execute(
        "insert into game_platform_flash_ctf_events (synced_user_id, event_id, started_at) "
        "values ('someone', 'New:1', now() - interval '1 minute')"
    )
    world.sandbox.forget()
    world.sync()
    assert sorted(str(who) for _, who in world.asked("flash")) == sorted(people)


def test_events_without_a_start_are_counted_and_not_stored(world: World) -> None:
    person = world.competitor(world.coach())
    world.account(person).flash = [flash_event("Timeless", 0, [solve(1, T0)]), flash_event("Spring", T0, [])]
    outcome = world.sync()
    assert outcome.output["competitors"]["eventsWithoutStart"] == 1
    assert world.conn.row("select event_id from game_platform_flash_ctf_events")["event_id"] == f"Spring:{T0}"


def test_forcing_flash_removes_what_the_vendor_no_longer_lists(world: World) -> None:
    person = world.competitor(world.coach())
    account = world.account(person)
    account.flash = [flash_event("Spring", T0, [solve(1, T0), solve(2, T0)]), flash_event("Old", T0 - DAY, [])]
    world.solves(person, 9)
    world.sync()
    account.flash = [flash_event("Spring", T0, [solve(1, T0)])]
    world.sync(forceFlashCtfSync=True)
    assert world.stored(person, "flash_ctf") == [(f"Spring:{T0}", 1)]
    assert world.conn.row("select count(*) from game_platform_flash_ctf_events")["count"] == 1
    assert world.stored(person) == [("", 9)]


def test_forcing_flash_removes_nothing_on_an_empty_answer(world: World) -> None:
    person = world.competitor(world.coach())
    world.account(person).flash = [flash_event("Spring", T0, [solve(1, T0)])]
    world.sync()
    world.account(person).flash = []
    world.sync(forceFlashCtfSync=True)
    assert world.stored(person, "flash_ctf") == [(f"Spring:{T0}", 1)]


def test_forcing_flash_alone_asks_for_no_odl_and_clears_no_error_for_nothing(world: World) -> None:
    person, other = world.competitor(coach := world.coach()), world.competitor(coach)
    world.account(other).flash = [flash_event("Spring", T0, [solve(1, T0)])]
    world.sandbox.rules.add(f"404:odl,user={person}")
    world.sync()
    assert world.person(person)["game_platform_sync_error"]
    world.sandbox.forget()
    world.sync(forceFlashCtfSync=True)
    assert world.asked("odl") == []
    assert world.person(person)["game_platform_sync_error"]
    assert world.state(person)["last_result"] == "failure"


def test_solves_stored_before_events_were_part_of_the_key_are_adopted(world: World) -> None:
    person = world.competitor(world.coach())
    world.conn.execute(
        "insert into game_platform_challenge_solves (synced_user_id, challenge_solve_id, source, solved_at, created_at)"
        " values (%s, 5, 'flash_ctf', to_timestamp(%s), '2025-01-01T00:00Z')",
        (person, T0 + 5),
    )
    world.account(person).flash = [flash_event("Spring", T0, [solve(5, T0 + 5)])]
    outcome = world.sync()
    assert outcome.output["competitors"]["newSolves"] == 0
    row = world.conn.row("select event_id, created_at from game_platform_challenge_solves")
    assert row == {"event_id": f"Spring:{T0}", "created_at": datetime(2025, 1, 1, tzinfo=UTC)}


def test_a_new_account_is_left_alone_until_its_owner_logs_in(world: World) -> None:
    person = world.competitor(world.coach(), status=None, remote="user_created", logged_in=False)
    world.sync()
    assert world.asked("scores") == []
    assert world.mapping(person)["status"] == "user_created"
    assert world.mapping(person)["sync_error"] is None
    assert world.state(person)["last_result"] is None
    world.account(person).status, world.account(person).last_login = "approved", T0
    world.solves(person, 1)
    world.sync()
    assert world.mapping(person)["status"] == "approved"
    assert world.state(person)["last_login_at"] == _unix(T0)
    assert world.stored(person) == [("", 1)]


def test_denied_at_the_vendor_stays_denied_here(world: World) -> None:
    person = world.competitor(world.coach(), status="denied", remote="denied")
    world.sync()
    assert world.mapping(person)["status"] == "denied"


@pytest.mark.parametrize("code", [200, 201])
def test_looking_a_user_up_may_answer_200_or_201(world: World, code: int) -> None:
    world.sandbox.metactf.switches.get_user_status = 200 if code == 200 else 201
    person = world.competitor(world.coach(), status=None, logged_in=False)
    world.sync()
    assert world.mapping(person)["status"] == "approved"


def test_a_known_login_is_not_looked_up_again(world: World) -> None:
    world.competitor(world.coach())
    world.sync()
    assert world.asked("/users") == []


def test_competitors_without_an_account_are_not_asked_about(world: World) -> None:
    world.competitor(world.coach(), on_platform=False)
    outcome = world.sync()
    assert outcome.output["competitors"]["total"] == 0
    assert world.sandbox.requests == []


def test_everyone_failing_fails_the_job_with_a_delay(world: World) -> None:
    world.competitors(3)
    world.sandbox.rules.add("404:scores")
    with pytest.raises(RetryLater, match="All 3 competitors failed") as failure:
        world.sync()
    assert failure.value.seconds > 0
    assert world.conn.row("select status from game_platform_sync_runs")["status"] == "failed"


@pytest.mark.slow
def test_errors_are_capped_at_twenty_and_counts_are_exact(world: World) -> None:
    people = world.competitors(26)
    world.solves(people[0], 1)
    for person in people[1:]:
        del world.sandbox.metactf.accounts[person]
    outcome = ended(world.sync())
    assert len(outcome.output["competitors"]["errors"]) == 20
    assert outcome.output["competitors"]["failed"] == outcome.failed == 25
    assert outcome.output["competitors"]["total"] == 26


def test_the_run_is_entered_in_the_ledger_with_its_job_and_coach(world: World) -> None:
    coach = world.coach()
    world.competitor(coach)
    context = world.context()
    world.sync(context, coachId=str(coach))
    row = world.conn.row("select * from game_platform_sync_runs")
    assert (row["status"], row["job_id"], row["coach_id"]) == ("completed", context.job.id, coach)
    assert (row["competitors_synced"], row["competitors_failed"], row["sync_type"]) == (1, 0, "incremental")


def test_progress_is_told_for_each_competitor(world: World) -> None:
    world.competitors(3)
    context = world.context()
    world.sync(context)
    assert [step for step in context.steps if step[2] == "competitors"] == [
        (1, 3, "competitors"), (2, 3, "competitors"), (3, 3, "competitors"),
    ]  # fmt: skip
