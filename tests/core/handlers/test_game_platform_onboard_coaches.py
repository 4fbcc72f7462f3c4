"""Coaches are given one account each, or keep the one they have."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.errors import Cancelled, PermanentError, RetryLater
from jobdeck.core.handlers import game_platform_onboard_coaches as onboard
from jobdeck.core.registry import Continue
from tests.core.handlers.world import World
from tests.support.context import ended


def _mapping(world: World, coach: UUID) -> dict[str, Any]:
    return world.conn.row("select * from game_platform_profiles where coach_id = %s", coach)


def _profile(world: World, coach: UUID) -> dict[str, Any]:
    return world.conn.row("select * from profiles where id = %s", coach)


def test_every_approved_coach_is_given_an_account(world: World) -> None:
    new = [world.coach() for _ in range(3)]
    mapped = world.coach(account="k-1")
    world.coach(approved=False)
    world.conn.execute("insert into profiles (email, role, full_name, first_name, last_name, school_name) "
                       "values ('admin@example.org', 'admin', 'A B', 'A', 'B', 'S')")  # fmt: skip
    output = world.run(onboard).output
    told = ("source", "processed", "synced", "created", "adopted", "alreadySynced", "skipped", "failed")
    assert [output[name] for name in told] == ["backfill", 5, 4, 3, 0, 1, 1, 0]
    assert output["skippedByReason"] == {"not_approved": 1}
    assert world.created() == {str(one): 1 for one in new}
    for one in new:
        profile, mapping = _profile(world, one), _mapping(world, one)
        assert profile["game_platform_user_id"] == mapping["synced_user_id"] == str(one)
        assert profile["game_platform_last_synced_at"] is not None
        assert (mapping["metactf_role"], mapping["status"], mapping["sync_error"]) == ("coach", "user_created", None)
    assert _profile(world, mapped)["game_platform_user_id"] == "k-1"
    audited = world.conn.execute(
        "select entity_type, entity_id, metadata -> 'data_fields' from activity_logs"
    ).fetchall()
    assert {row[1] for row in audited} == set(new)
    assert {row[0] for row in audited} == {"profile"}
    assert audited[0][2] == [
        "email", "first_name", "last_name", "preferred_username", "role", "syned_region_id", "syned_school_id",
        "syned_user_id",
    ]  # fmt: skip


def test_a_mapped_coach_is_not_asked_about(world: World) -> None:
    coach = world.coach(account="k-1")
    output = world.run(onboard, coachId=str(coach)).output
    assert (output["source"], output["synced"], output["alreadySynced"]) == ("manual", 1, 1)
    assert world.sandbox.requests == []


def test_a_coach_who_is_not_on_the_platform_is_created_once(world: World) -> None:
    coach = world.coach()
    for _ in range(2):
        world.run(onboard, coachIds=[str(coach), str(coach)])
    assert [f"{seen.method} {seen.path}" for seen in world.sandbox.requests] == ["GET /users", "POST /users"]


def test_an_account_that_is_there_is_adopted(world: World) -> None:
    coach = world.coach()
    world.sandbox.metactf.add_account(str(coach), role="coach", status="approved")
    output = world.run(onboard).output
    assert (output["adopted"], output["created"]) == (1, 0)
    assert world.mutations() == []
    assert world.conn.execute("select count(*) from activity_logs").fetchall() == [(0,)]


def test_ids_go_before_the_one_id_and_unknown_or_unfit_ones_fail_alone(world: World) -> None:
    coach, beside, idle = world.coach(), world.coach(), world.coach(approved=False)
    named = [str(coach), str(uuid4()), str(idle), "zz@example.org"]
    outcome = ended(world.run(onboard, coachIds=named, coachId=str(beside)))
    assert outcome.failed == 3
    assert outcome.output["failedByReason"] == {"coach": 1, "invalid_id": 1, "unknown": 1}
    assert (outcome.output["processed"], outcome.output["synced"]) == (4, 1)
    assert set(world.created()) == {str(coach)}
    assert "zz" not in str(outcome.output)


@pytest.mark.parametrize("status", ["pending_approval", "denied"])
def test_an_account_that_cannot_be_used_is_stored_with_the_reason(world: World, status: str) -> None:
    coach, fine = world.coach(), world.coach()
    world.sandbox.metactf.add_account(str(coach), role="coach", status=status)
    outcome = ended(world.run(onboard))
    assert (outcome.failed, outcome.output["failedByReason"]) == (1, {"not_usable": 1})
    assert (_mapping(world, coach)["status"], _mapping(world, fine)["status"]) == (status, "user_created")
    assert status in _mapping(world, coach)["sync_error"]
    world.account(str(coach)).status = "approved"
    assert world.run(onboard).output["synced"] == 2
    assert _mapping(world, coach)["sync_error"] is None


def test_a_coach_without_an_address_is_refused_and_no_address_is_made_up(world: World) -> None:
    coach = world.coach()
    world.conn.execute("update profiles set email = ' '")
    with pytest.raises(PermanentError, match="no e-mail address"):
        world.run(onboard, coachIds=[str(coach)])
    assert world.sandbox.requests == []


def test_a_clash_of_e_mail_fails_for_good_and_is_told_without_the_address(world: World) -> None:
    world.sandbox.metactf.switches.duplicate_create = "409"
    coach = world.coach()
    world.sandbox.metactf.add_account("other", email=f"zzcoach-{coach}@example.org")
    with pytest.raises(PermanentError, match="a conflicting account") as failure:
        world.run(onboard, coachId=str(coach))
    assert "zzcoach" not in str(failure.value)
    assert _profile(world, coach)["game_platform_user_id"] is None


def test_a_creation_in_doubt_is_settled_by_a_second_look(world: World) -> None:
    world.coach()
    world.sandbox.rules.add("cut-before:users:1,method=POST")
    assert isinstance(world.run(onboard, context := world.context()), Continue)
    world.an_hour_later()
    assert world.lap(onboard, world.successor(context)).output["created"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["503", "408", "cut-before", "cut-after"])
def test_an_outage_stops_the_run_and_loses_nobody(world: World, fault: str) -> None:
    for _ in range(20):
        world.coach()
    rule = world.sandbox.rules.add(f"{fault}:users,method=GET")
    context = world.context()
    with pytest.raises(RetryLater, match="of 20 coaches; a retry waits 5 minutes"):
        world.run(onboard, context)
    world.sandbox.rules.remove(rule)
    assert world.lap(onboard, world.successor(context)).output["created"] == 20


@pytest.mark.slow
def test_an_outage_names_the_last_answer_of_the_vendor(world: World) -> None:
    for _ in range(5):
        world.coach()
    world.sandbox.rules.add("503:users,method=GET,detail=maintenance until noon")
    with pytest.raises(RetryLater, match=r"Last error: The game platform answered 503 to GET .*maintenance until noon"):
        world.run(onboard)


@pytest.mark.parametrize("fault", ["malformed", "schema"])
def test_an_answer_that_breaks_the_contract_creates_nobody_and_is_not_asked_for_again(world: World, fault: str) -> None:
    for _ in range(3):
        world.sandbox.metactf.add_account(str(world.coach()), role="coach")
    rule = world.sandbox.rules.add(f"{fault}:users,method=GET")
    with pytest.raises(PermanentError, match="None of the 3 coaches"):
        world.run(onboard)
    assert rule.struck == 3
    assert world.created() == {}
    world.sandbox.rules.remove(rule)
    assert world.lap(onboard).output["adopted"] == 3


def test_a_cancelled_run_stores_what_was_created(world: World) -> None:
    for _ in range(30):
        world.coach()
    context = world.context()
    context.cancel_when = lambda: sum(world.created().values()) >= 2
    with pytest.raises(Cancelled):
        world.run(onboard, context)
    stored = world.conn.execute("select game_platform_user_id from profiles where game_platform_user_id is not null")
    assert {row[0] for row in stored} == set(world.created())


def test_no_name_or_address_stands_in_what_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    coach, other = world.coach(), world.coach()
    world.sandbox.rules.add(f"422:users,user={coach},method=POST,detail=Zzcoach Marked zzcoach-{coach}@example.org")
    world.sandbox.rules.add(f"500:users:2,user={other}")
    told = json.dumps(world.lap(onboard).output)
    kept = world.conn.execute(
        "select sync_error from game_platform_profiles union all select message from game_platform_onboarding "
        "union all select metadata::text from activity_logs"
    ).fetchall()
    for mark in ("Zzcoach", "Marked", "zzcoach"):
        assert mark not in told
        assert mark not in str(kept)
        assert mark not in caplog.text
