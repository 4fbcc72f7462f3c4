"""Accounts are looked up as the platform has them, and the health of other jobs is left alone."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.errors import Cancelled, RetryLater
from jobdeck.core.handlers import game_platform_profile_refresh as refresh
from jobdeck.core.registry import Continue
from tests.core.handlers.world import World
from tests.support.context import ended


def _coach_mapping(world: World, coach: UUID) -> dict[str, Any]:
    return world.conn.row("select * from game_platform_profiles where coach_id = %s", coach)


def test_name_status_and_login_are_taken_from_the_platform(world: World) -> None:
    coach = world.coach(account="k-1")
    world.sandbox.metactf.add_account("k-1", role="coach", status="approved")
    person = world.competitor(coach, status="pending", logged_in=False)
    output = world.run(refresh).output
    assert [output[name] for name in ("total", "refreshed", "failed", "missing")] == [2, 2, 0, 0]
    mapping = world.mapping(person)
    assert mapping["status"] == "approved"
    assert mapping["metactf_username"] == world.account(person).username
    assert mapping["metactf_user_id"] == world.account(person).metactf_user_id
    assert (mapping["refresh_result"], mapping["refresh_error"]) == ("success", None)
    assert mapping["refreshed_at"] is not None
    assert world.state(person)["last_login_at"].timestamp() == 1_750_000_000
    assert _coach_mapping(world, coach)["metactf_username"] == world.account("k-1").username
    assert world.mutations() == []


def test_only_those_who_have_an_account_are_asked_about(world: World) -> None:
    coach = world.coach()
    world.candidate(coach)
    mapped = world.candidate(coach)
    world.map(mapped, "c-mapped", status="pending")
    world.sandbox.metactf.add_account("c-mapped")
    assert world.run(refresh).output["total"] == 1
    assert [seen.user for seen in world.sandbox.requests] == ["c-mapped"]
    assert world.mapping(mapped)["status"] == "approved"


def test_an_account_known_only_to_the_competitor_or_the_profile_is_given_a_mapping(world: World) -> None:
    coach = world.coach()
    world.conn.execute("update profiles set game_platform_user_id = 'k-1'")
    world.sandbox.metactf.add_account("k-1", status="approved")
    person = world.competitor(coach, status=None)
    world.run(refresh)
    assert world.mapping(person)["synced_user_id"] == person
    assert _coach_mapping(world, coach)["metactf_role"] == "coach"


@pytest.mark.parametrize(
    ("old", "remote", "logged_in", "new"),
    [("user_created", "denied", True, "denied"), ("user_created", "user_created", True, "approved"),
     ("user_created", "user_created", False, "user_created"), ("approved", "denied", True, "denied"),
     ("pending", "pending_approval", False, "pending_approval"), ("approved", "surprise", False, "pending"),
     ("error", "approved", False, "approved")],
)  # fmt: skip
def test_a_status_is_what_the_platform_says_and_a_login_raises_only_a_created_one(
    world: World, old: str, remote: str, logged_in: bool, new: str
) -> None:
    person = world.competitor(world.coach(), status=old, remote=remote, logged_in=logged_in)
    world.account(person).last_login = None
    world.run(refresh)
    assert world.mapping(person)["status"] == new


def test_the_health_of_syncs_and_the_time_of_the_last_one_stay(world: World) -> None:
    person = world.competitor(world.coach())
    world.conn.execute(
        "update game_platform_profiles set last_synced_at = '2025-01-01T00:00Z', sync_error = 'Something was wrong.'"
    )
    world.conn.execute(
        "update game_platform_sync_state set last_result = 'failure', error_message = 'ODL: 500', "
        "last_attempt_at = '2025-01-01T00:00Z', needs_totals_refresh = true, totals_dirty_at = '2025-01-01T00:00Z'"
    )
    state, mapping = world.state(person), world.mapping(person)
    world.account(person).last_login = None
    world.run(refresh)
    assert world.state(person) == state
    kept = ("last_synced_at", "sync_error")
    assert {name: world.mapping(person)[name] for name in kept} == {name: mapping[name] for name in kept}


def test_a_login_never_goes_back(world: World) -> None:
    person = world.competitor(world.coach())
    world.account(person).last_login = 1_600_000_000
    before = world.state(person)["last_login_at"]
    world.run(refresh)
    assert world.state(person)["last_login_at"] == before


def test_a_coachs_error_about_an_unusable_account_goes_once_it_is_usable(world: World) -> None:
    coach = world.coach(account="k-1")
    world.conn.execute("update game_platform_profiles set status = 'pending_approval', sync_error = 'Not usable.'")
    world.sandbox.metactf.add_account("k-1", role="coach", status="pending_approval")
    world.run(refresh)
    assert _coach_mapping(world, coach)["sync_error"] == "Not usable."
    world.account("k-1").status = "approved"
    world.run(refresh)
    assert _coach_mapping(world, coach)["sync_error"] is None


@pytest.mark.parametrize(
    ("rule", "outcome", "kept"), [(None, "missing", "missing"), ("403", "refused", "refused"),
                                  ("400", "failed", "failure"), ("malformed", "failed", "failure")],
)  # fmt: skip
def test_each_failure_is_told_apart_and_leaves_the_status_as_it_was(
    world: World, rule: str | None, outcome: str, kept: str
) -> None:
    coach = world.coach()
    fine = world.competitor(coach, logged_in=False)
    person = world.competitor(coach, remote=None if rule is None else "approved")
    if rule:
        world.sandbox.rules.add(f"{rule}:users,user={person}")
    before, state = world.mapping(person), world.state(person)
    told = ended(world.run(refresh))
    assert (told.failed, told.output["refreshed"]) == (1, 1)
    assert (told.output["errors"][0]["competitorId"], told.output["errors"][0]["reason"]) == (person, outcome)
    after = world.mapping(person)
    assert after["refresh_result"] == kept
    assert after["refresh_error"]
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"refresh_attempt_at", "refresh_result", "refresh_error", "updated_at"}
    assert world.state(person) == state
    assert world.mapping(fine)["refresh_result"] == "success"


def test_a_failure_that_is_over_is_forgotten(world: World) -> None:
    person, _ = world.competitors(2)
    rule = world.sandbox.rules.add(f"403:users,user={person}")
    world.run(refresh)
    world.sandbox.rules.remove(rule)
    world.run(refresh)
    assert (world.mapping(person)["refresh_result"], world.mapping(person)["refresh_error"]) == ("success", None)


def test_a_coach_filter_takes_the_coach_and_their_competitors(world: World) -> None:
    coach, other = world.coach(account="k-1"), world.coach(account="k-2")
    for account in ("k-1", "k-2"):
        world.sandbox.metactf.add_account(account, role="coach")
    person = world.competitor(coach)
    world.competitor(other)
    world.run(refresh, coachId=str(coach))
    assert sorted(str(seen.user) for seen in world.sandbox.requests) == sorted(["k-1", person])


def test_everybody_comes_once_however_the_pages_fall(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "PAGE", 2)
    monkeypatch.setattr(refresh, "RUN_SECONDS", 0.0)
    coaches = [world.coach(account=f"k-{number}") for number in range(3)]
    people = [world.competitor(coaches[0]) for _ in range(3)]
    for number in range(3):
        world.sandbox.metactf.add_account(f"k-{number}", role="coach")
    context, runs = world.context(), 0
    while isinstance(outcome := world.run(refresh, context), Continue):
        context, runs = world.successor(context), runs + 1
    assert runs == 3
    assert outcome.output["refreshed"] == 6
    asked = [str(seen.user) for seen in world.sandbox.requests]
    assert sorted(asked) == sorted([*people, "k-0", "k-1", "k-2"])
    assert set(asked[:2]) < set(people)


def test_an_outage_stops_the_run_and_says_nothing_of_the_accounts(world: World) -> None:
    people = world.competitors(30)
    world.sandbox.rules.add("cut-before:users")
    before = [world.mapping(one) for one in people]
    with pytest.raises(
        RetryLater,
        match=r"The refresh stopped after 5 of 30 accounts; a retry waits 5 minutes\. Last error: .*no full answer",
    ):
        world.run(refresh)
    assert len({seen.user for seen in world.sandbox.requests}) < 15
    assert [world.mapping(one) for one in people] == before


def test_everybody_failing_fails_the_job_with_a_retry(world: World) -> None:
    world.competitor(world.coach(), remote=None)
    context = world.context()
    with pytest.raises(RetryLater, match="does not know the account"):
        world.run(refresh, context)
    assert context.checkpoint == {}


def test_a_cancelled_run_stores_the_answers_that_were_under_way(world: World) -> None:
    world.competitors(30)
    context = world.context()
    context.cancel_when = lambda: len(world.sandbox.requests) >= 3
    with pytest.raises(Cancelled):
        world.run(refresh, context)
    stored = world.conn.row("select count(*) from game_platform_profiles where refresh_result = 'success'")["count"]
    assert stored == len(world.sandbox.requests) < 15


def test_an_account_that_somebody_elses_mapping_has_fails_alone(world: World) -> None:
    coach = world.coach()
    person, fine = world.competitor(coach, status=None), world.competitor(coach)
    world.coach(account=person)
    outcome = ended(world.run(refresh))
    assert (outcome.failed, outcome.output["refreshed"]) == (1, 2)
    assert outcome.output["errors"][0]["competitorId"] == person
    assert "Another person" in outcome.output["errors"][0]["error"]
    assert world.mapping(fine)["refresh_result"] == "success"


def test_an_answer_that_the_database_refuses_fails_alone(world: World) -> None:
    person, _ = world.competitors(2)
    world.conn.execute(
        f"alter table game_platform_profiles add constraint no_zz check (metactf_username <> "
        f"'{world.account(person).username}')".encode()
    )
    outcome = ended(world.run(refresh))
    assert (outcome.failed, outcome.output["refreshed"]) == (1, 1)
    assert "no_zz" in outcome.output["errors"][0]["error"]
    assert world.account(person).username not in str(outcome.output)


def test_progress_counts_accounts(world: World) -> None:
    world.competitors(3)
    context = world.context()
    world.run(refresh, context)
    assert context.steps == [(1, 3, "accounts"), (2, 3, "accounts"), (3, 3, "accounts")]


def test_no_personal_data_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    people = world.competitors(3)
    world.sandbox.rules.add(f"422:users,user={people[0]},detail=zzmail@example.org is unknown")
    told = json.dumps(world.run(refresh).output)
    kept = world.conn.execute("select refresh_error from game_platform_profiles").fetchall()
    for mark in ("zzmail", "Zzfirst", "Zzlast", "sandbox-token"):
        assert mark not in told + str(kept) + caplog.text
