"""Competitors are given one account each: looked up first, created where there is none, stored whole or not at all."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.errors import Cancelled, PermanentError, RetryLater
from jobdeck.core.handlers import game_platform_onboard_competitors as onboard
from jobdeck.core.registry import Continue
from tests.core.handlers.world import World
from tests.support.context import FakeContext, ended
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until


def _people(world: World, count: int, **columns: Any) -> list[UUID]:
    coach = world.coach(account="k-1")
    return [world.candidate(coach, **columns) for _ in range(count)]


def _paths(world: World) -> list[str]:
    return [f"{seen.method} {seen.path}" for seen in world.sandbox.requests]


def _count(world: World, query: str) -> Any:
    return world.conn.execute(query.encode()).fetchall()[0][0]


@pytest.mark.slow
def test_everybody_with_a_complete_profile_is_given_an_account(world: World) -> None:
    people = _people(world, 7)
    world.candidate(world.coach(account="k-2"), status="pending")
    world.candidate(world.coach(account="k-3"), is_active=False)
    outcome = ended(world.run(onboard, batchSize=3))
    assert outcome.failed == 0
    output = outcome.output
    told = ("source", "processed", "synced", "created", "adopted", "skipped", "failed")
    assert [output[name] for name in told] == ["backfill", 7, 7, 7, 0, 0, 0]
    assert set(world.created()) == {str(one) for one in people}
    assert set(world.created().values()) == {1}
    assert _paths(world).count("GET /users") == 7
    for one in people:
        row, mapping = world.person(one), world.mapping(one)
        assert row["game_platform_id"] == mapping["synced_user_id"] == str(one)
        assert row["status"] == "in_the_game_not_compliant"
        assert row["game_platform_onboarding_email"] == f"zzmail-{one}@example.org"
        assert row["game_platform_synced_at"] is not None
        assert row["game_platform_sync_error"] is None
        assert mapping["metactf_user_id"] == world.account(str(one)).metactf_user_id
        assert (mapping["status"], mapping["metactf_role"]) == ("user_created", "user")
        assert world.conn.row("select * from game_platform_stats where competitor_id = %s", one)["total_score"] == 0
    assert _count(world, "select count(*) from competitors where game_platform_id is null") == 2


def test_a_created_account_is_audited_with_the_fields_that_were_sent(world: World) -> None:
    (person,) = _people(world, 1)
    context = world.context()
    world.run(onboard, context)
    row = world.conn.row("select * from activity_logs")
    assert (row["action"], row["entity_type"], row["entity_id"]) == (
        "data_disclosed_game_platform", "competitor", person,
    )  # fmt: skip
    assert row["metadata"]["data_fields"] == [
        "email", "first_name", "last_name", "preferred_username", "role", "syned_coach_user_id", "syned_region_id",
        "syned_school_id", "syned_user_id",
    ]  # fmt: skip
    assert row["metadata"]["disclosed_to"] == "MetaCTF"
    assert row["metadata"]["result"] == "created"
    assert row["metadata"]["job_id"] == str(context.job.id)
    assert row["metadata"]["disclosure_date"]
    assert "zz" not in str(row["metadata"]).lower()


@pytest.mark.parametrize("status", [200, 201])
def test_an_account_that_is_there_is_adopted_and_nothing_is_disclosed(world: World, status: Any) -> None:
    world.sandbox.metactf.switches.get_user_status = status
    (person,) = _people(world, 1)
    world.sandbox.metactf.add_account(str(person), status="approved")
    output = world.run(onboard).output
    assert (output["created"], output["adopted"]) == (0, 1)
    assert world.mutations() == []
    assert world.person(person)["game_platform_id"] == str(person)
    assert world.person(person)["game_platform_onboarding_email"] is None
    assert world.mapping(person)["status"] == "approved"
    assert world.state(str(person))["last_login_at"] is not None
    assert _count(world, "select count(*) from activity_logs") == 0


def test_onboarding_twice_sends_one_post(world: World) -> None:
    people = _people(world, 3)
    world.run(onboard)
    assert world.run(onboard).output["processed"] == 0
    again = world.run(onboard, competitorIds=[str(one) for one in people]).output
    assert (again["synced"], again["skippedByReason"]) == (0, {"already_synced": 3})
    assert set(world.created().values()) == {1}


def test_an_id_named_twice_is_taken_once(world: World) -> None:
    (person,) = _people(world, 1)
    output = world.run(onboard, competitorIds=[str(person), str(person).upper(), f" {person} ", ""]).output
    assert output["source"] == "bulk_import"
    assert world.created() == {str(person): 1}


def test_named_ids_that_are_all_filtered_out_process_nobody(world: World) -> None:
    people = _people(world, 2)
    stranger, idle = world.candidate(world.coach(account="k-2")), world.candidate(world.coach(), is_active=False)
    coach = world.person(people[0])["coach_id"]
    named = [str(stranger), str(idle), str(uuid4())]
    output = world.run(onboard, competitorIds=named, coachId=str(coach)).output
    assert (output["processed"], output["skipped"]) == (0, 3)
    assert output["skippedByReason"] == {"out_of_scope": 2, "unknown": 1}
    assert world.sandbox.requests == []
    assert _count(world, "select count(*) from game_platform_onboarding") == 0


@pytest.mark.parametrize(("given", "read"), [(0, 50), (7.9, 7), (5000, 200), (-1, 1)])
def test_the_batch_size_is_read_as_the_original_read_it(given: float, read: int) -> None:
    assert onboard.Params.model_validate({"batchSize": given}).batch_size == read


def test_an_unreadable_id_is_an_error_of_its_own(world: World) -> None:
    (person,) = _people(world, 1)
    outcome = ended(world.run(onboard, competitorIds=[str(person), "zzmail@example.org"]))
    assert outcome.failed == 1
    assert outcome.output["failedByReason"] == {"invalid_id": 1}
    assert "zz" not in str(outcome.output).lower()


def test_only_a_complete_profile_or_its_legacy_name_is_eligible(world: World) -> None:
    coach = world.coach(account="k-1")
    legacy = world.candidate(coach, status="compliance")
    waiting = world.candidate(coach, status="pending")
    output = world.run(onboard, competitorIds=[str(legacy), str(waiting)]).output
    assert (output["synced"], output["skippedByReason"]) == (1, {"requires_profile": 1})
    assert set(world.created()) == {str(legacy)}


def test_what_an_earlier_onboarding_left_half_done_is_mended_without_asking(world: World) -> None:
    (person,) = _people(world, 1)
    world.map(person, "c-old", status="user_created")
    output = world.run(onboard).output
    assert output["skippedByReason"] == {"already_synced": 1}
    assert world.sandbox.requests == []
    assert world.person(person)["game_platform_id"] == "c-old"
    assert world.person(person)["status"] == "in_the_game_not_compliant"
    assert _count(world, "select count(*) from game_platform_stats") == 1


def test_a_mapping_in_bad_standing_is_looked_up_by_its_own_id(world: World) -> None:
    (person,) = _people(world, 1)
    world.map(person, "c-old", status="error")
    world.sandbox.metactf.add_account("c-old", status="pending_approval")
    assert world.run(onboard).output["adopted"] == 1
    assert world.mapping(person)["status"] == "pending_approval"
    assert world.person(person)["game_platform_id"] == "c-old"


def test_the_school_address_stands_in_for_the_personal_one(world: World) -> None:
    (person,) = _people(world, 1, email_personal=" ", email_school="zzschool@example.org")
    world.run(onboard)
    assert world.account(str(person)).email == "zzschool@example.org"
    assert world.person(person)["game_platform_onboarding_email"] == "zzschool@example.org"


def test_a_coachs_account_named_on_the_competitor_goes_before_the_coachs_own(world: World) -> None:
    person = world.candidate(world.coach(), syned_coach_user_id="k-own")
    world.run(onboard)
    assert set(world.created()) == {str(person)}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [({"email_personal": None}, "no_email"), ({"email_personal": "zzmail"}, "invalid"),
     ({"first_name": " "}, "invalid")],
)  # fmt: skip
def test_a_request_that_cannot_be_made_fails_that_one_person_and_asks_nothing(
    world: World, columns: dict[str, Any], reason: str
) -> None:
    (good,) = _people(world, 1)
    bad = world.candidate(world.person(good)["coach_id"], **columns)
    outcome = ended(world.run(onboard))
    assert (outcome.failed, outcome.output["synced"]) == (1, 1)
    assert outcome.output["errors"][0]["competitorId"] == str(bad)
    assert outcome.output["failedByReason"] == {reason: 1}
    assert world.person(bad)["game_platform_sync_error"] == outcome.output["errors"][0]["error"]
    assert str(bad) not in {seen.user for seen in world.sandbox.requests}
    assert "mock" not in str(outcome.output)


def test_a_coach_without_an_account_is_created_first(world: World) -> None:
    coach = world.coach()
    people = [world.candidate(coach) for _ in range(3)]
    output = world.run(onboard).output
    assert (output["synced"], output["coaches"]["created"]) == (3, 1)
    assert _paths(world)[:2] == ["GET /users", "POST /users"]
    assert world.sandbox.requests[1].user == str(coach)
    assert world.account(str(coach)).role == "coach"
    assert set(world.created()) == {str(coach), *map(str, people)}
    assert world.conn.row("select * from profiles")["game_platform_user_id"] == str(coach)
    disclosed = world.conn.execute("select entity_type, count(*) from activity_logs group by 1 order by 1").fetchall()
    assert disclosed == [("competitor", 3), ("profile", 1)]


def test_a_coach_who_is_pending_approval_stores_an_error_and_creates_no_competitor(world: World) -> None:
    coach = world.coach()
    person = world.candidate(coach)
    world.sandbox.metactf.add_account(str(coach), status="pending_approval", role="coach")
    with pytest.raises(PermanentError, match="pending_approval"):
        world.run(onboard)
    assert world.mutations() == []
    mapping = world.conn.row("select * from game_platform_profiles where coach_id = %s", coach)
    assert mapping["status"] == "pending_approval"
    assert "pending_approval" in mapping["sync_error"]
    assert "pending_approval" in world.person(person)["game_platform_sync_error"]
    world.account(str(coach)).status = "approved"
    assert world.run(onboard).output["synced"] == 1
    assert world.conn.row("select * from game_platform_profiles where coach_id = %s", coach)["sync_error"] is None


def test_a_coach_who_is_not_approved_here_is_not_disclosed(world: World) -> None:
    person = world.candidate(world.coach(approved=False))
    with pytest.raises(PermanentError, match="not approved"):
        world.run(onboard)
    assert world.sandbox.requests == []
    assert "not approved" in world.person(person)["game_platform_sync_error"]


@pytest.mark.parametrize("duplicate", ["409", "422", "same"])
def test_a_clash_of_e_mail_is_told_to_people_and_is_for_good(world: World, duplicate: Any) -> None:
    world.sandbox.metactf.switches.duplicate_create = duplicate
    (person,) = _people(world, 1)
    world.sandbox.metactf.add_account("other", email=f"zzmail-{person}@example.org")
    with pytest.raises(PermanentError, match=r"a conflicting account|already in use") as failure:
        world.run(onboard, competitorIds=[str(person)])
    assert "zzmail" not in str(failure.value)
    assert world.person(person)["game_platform_id"] is None
    assert world.person(person)["status"] == "profile"
    assert world.attempt(person)["state"] == "failed"
    assert world.conn.row("select metadata from activity_logs")["metadata"]["result"] in {"conflict", "refused"}


@pytest.mark.parametrize("duplicate", ["409", "422"])
def test_an_account_that_turns_out_to_exist_is_adopted(world: World, duplicate: Any) -> None:
    (person,) = _people(world, 1)
    world.sandbox.metactf.switches.duplicate_create = duplicate
    world.sandbox.metactf.add_account(str(person), status="user_created")
    world.sandbox.rules.add(f"404:users:1,method=GET,user={person}")
    output = world.run(onboard).output
    assert (output["adopted"], output["created"]) == (1, 0)
    assert _paths(world) == ["GET /users", "POST /users", "GET /users"]


@pytest.mark.parametrize("fault", ["cut-after", "malformed", "schema"])
def test_a_creation_without_an_answer_is_found_by_its_id_and_not_sent_again(world: World, fault: str) -> None:
    _people(world, 1)
    world.sandbox.rules.add(f"{fault}:users:1,method=POST")
    output = world.run(onboard).output
    assert output["created"] == 1
    assert _paths(world) == ["GET /users", "POST /users", "GET /users"]
    assert _count(world, "select count(*) from activity_logs") == 1


@pytest.mark.parametrize("fault", ["cut-before", "503"])
def test_a_creation_in_doubt_is_settled_by_a_second_look_after_the_doubt_is_over(world: World, fault: str) -> None:
    (person,) = _people(world, 1)
    world.sandbox.rules.add(f"{fault}:users:1,method=POST")
    context = world.context()
    first = world.run(onboard, context)
    assert isinstance(first, Continue)
    assert first.delay >= context.resources.clients.metactf.doubt_seconds - 60
    assert _paths(world) == ["GET /users", "POST /users", "GET /users"]
    assert world.attempt(person)["state"] == "creating"
    early = world.run(onboard, world.successor(context))
    assert isinstance(early, Continue)
    assert len(world.sandbox.requests) == 3
    world.an_hour_later()
    outcome = world.lap(onboard, world.successor(context))
    assert outcome.output["created"] == 1
    assert _paths(world)[3:] == ["GET /users", "POST /users"]
    assert _count(world, "select count(*) from activity_logs") == 1


@pytest.mark.slow
def test_a_creation_that_the_vendor_carries_out_late_is_found_by_the_second_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (person,) = _people(world, 1)
    metactf, given_up = world.sandbox.metactf, threading.Event()
    answer = metactf.answer

    def late(method: str, *request: Any) -> Any:
        if method == "POST":
            given_up.wait(PATIENCE)
        return answer(method, *request)

    monkeypatch.setattr(metactf, "answer", late)
    context = world.context(GAME_PLATFORM_TIMEOUT_SECONDS=2)
    assert isinstance(world.run(onboard, context), Continue)
    assert world.attempt(person)["state"] == "creating"
    given_up.set()
    until(lambda: str(person) in metactf.accounts, "the late account")
    world.an_hour_later()
    assert world.lap(onboard, world.successor(context)).output["created"] == 1
    assert world.mutations() == ["POST /users"]
    assert _count(world, "select count(*) from activity_logs") == 1


def test_a_person_who_is_deleted_while_the_vendor_is_asked_is_passed_over(world: World, database_url: str) -> None:
    person, other = _people(world, 2)
    answer = world.sandbox.metactf.answer

    def deleting(method: str, path: str, fields: Any) -> Any:
        if method == "POST" and fields["syned_user_id"] == str(person):
            with Connection.connect(database_url, autocommit=True) as connection:
                connection.execute("delete from competitors where id = %s", (person,))
        return answer(method, path, fields)

    world.sandbox.metactf.answer = deleting  # type: ignore[method-assign]
    outcome = ended(world.run(onboard))
    assert (outcome.output["synced"], outcome.output["skippedByReason"]) == (1, {"gone": 1})
    assert world.person(other)["game_platform_id"] == str(other)


@pytest.mark.slow
def test_a_creation_that_stays_in_doubt_is_counted_as_failed_and_looked_up_by_the_next_job(world: World) -> None:
    good, person = _people(world, 2)
    rule = world.sandbox.rules.add(f"503:users,method=POST,user={person}")
    outcome = world.lap(onboard)
    assert (outcome.failed, outcome.output["failedByReason"]) == (1, {"doubt": 1})
    assert world.person(good)["game_platform_id"]
    world.sandbox.rules.remove(rule)
    world.sandbox.metactf.add_account(str(person), status="user_created")
    world.an_hour_later()
    assert world.run(onboard).output["created"] == 1
    assert world.conn.row("select count(*) from activity_logs where entity_id = %s", person)["count"] == 1


def test_another_job_does_not_ask_for_an_account_that_may_be_under_way(world: World) -> None:
    (person,) = _people(world, 1)
    world.sandbox.rules.add("503:users:1,method=POST")
    world.run(onboard)
    world.sandbox.forget()
    output = world.run(onboard).output
    assert output["skippedByReason"] == {"elsewhere": 1}
    assert world.sandbox.requests == []
    assert world.attempt(person)["state"] == "creating"


@pytest.mark.parametrize("status", ["403", "400"])
def test_a_refused_look_up_creates_nothing(world: World, status: str) -> None:
    good, person = _people(world, 2)
    world.sandbox.rules.add(f"{status}:users,user={person}")
    outcome = ended(world.run(onboard))
    assert outcome.failed == 1
    assert outcome.output["failedByReason"] == {"not_approved" if status == "403" else "refused": 1}
    assert set(world.created()) == {str(good)}


def test_forcing_replaces_a_mapping_only_after_a_good_answer(world: World) -> None:
    coach = world.coach(account="k-1")
    person = world.candidate(coach, status="complete", game_platform_id="c-old")
    world.map(person, "c-old")
    world.conn.execute("insert into game_platform_stats (competitor_id, total_score) values (%s, 70)", (person,))
    rule = world.sandbox.rules.add("422:users,method=POST")
    before = world.mapping(person)
    with pytest.raises(PermanentError):
        world.run(onboard, competitorIds=[str(person)], forceReonboard=True)
    assert {**world.mapping(person), "sync_error": None, "updated_at": None} == {**before, "updated_at": None}
    assert world.person(person)["game_platform_id"] == "c-old"
    assert world.person(person)["status"] == "complete"
    world.sandbox.rules.remove(rule)
    assert world.run(onboard, competitorIds=[str(person)], forceReonboard=True).output["created"] == 1
    assert world.mapping(person)["synced_user_id"] == world.person(person)["game_platform_id"] == str(person)
    assert world.conn.row("select total_score from game_platform_stats")["total_score"] == 70


def test_forcing_does_not_get_past_an_incomplete_profile(world: World) -> None:
    person = world.candidate(world.coach(account="k-1"), grade=" ", status="complete", game_platform_id="c-old")
    world.map(person, "c-old")
    output = world.run(onboard, competitorIds=[str(person)], forceReonboard=True).output
    assert output["skippedByReason"] == {"requires_profile": 1}
    assert world.sandbox.requests == []
    assert world.mapping(person)["synced_user_id"] == "c-old"


def test_an_id_that_belongs_to_somebody_else_here_is_refused_before_anything_is_sent(world: World) -> None:
    person, other = _people(world, 2)
    world.map(other, str(person))
    world.conn.execute("update competitors set game_platform_id = %s where id = %s", (str(person), other))
    with pytest.raises(PermanentError, match="Another person here already has this account id"):
        world.run(onboard, competitorIds=[str(person)])
    assert world.sandbox.requests == []


def test_an_account_that_cannot_be_stored_leaves_nothing_half_done(world: World) -> None:
    good, person = _people(world, 2)
    world.conn.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$begin raise exception 'Zzlast is refused' using errcode = 'check_violation'; end$$"
    )
    world.conn.execute(
        "create trigger refuse before insert on game_platform_stats for each row "
        f"when (new.competitor_id = '{person}') execute function refuse()".encode()
    )
    outcome = ended(world.run(onboard))
    assert outcome.output["failedByReason"] == {"taken": 1}
    assert "Zz" not in str(outcome.output)
    assert world.person(person)["game_platform_id"] is None
    assert world.conn.row("select count(*) from game_platform_profiles where competitor_id = %s", person)["count"] == 0
    assert world.person(good)["game_platform_id"] == str(good)
    world.conn.execute("drop trigger refuse on game_platform_stats")
    assert world.run(onboard).output["adopted"] == 1
    assert world.created()[str(person)] == 1


@pytest.mark.slow
def test_an_outage_stops_the_run_says_when_it_goes_on_and_loses_nobody(world: World) -> None:
    people = _people(world, 30)
    rule = world.sandbox.rules.add("cut-before:users,method=GET")
    context = world.context()
    with pytest.raises(RetryLater, match=r"The onboarding stopped after \d+ of 30 competitors; a retry waits 5 min"):
        world.run(onboard, context)
    assert len({seen.user for seen in world.sandbox.requests}) < 15
    assert all(world.person(one)["game_platform_sync_error"] is None for one in people)
    world.sandbox.rules.remove(rule)
    assert world.lap(onboard, world.successor(context)).output["created"] == 30
    assert set(world.created().values()) == {1}


def test_the_pause_doubles_with_each_attempt(world: World) -> None:
    _people(world, 10)
    world.sandbox.rules.add("cut-before:users")
    context = world.context()
    context.job = context.job._replace(attempt=4)
    with pytest.raises(RetryLater) as failure:
        world.run(onboard, context)
    assert failure.value.seconds == 2400


@pytest.mark.slow
def test_now_and_then_a_failure_is_made_good(world: World) -> None:
    people = _people(world, 20)
    world.sandbox.rules.add("503:users:3,method=POST")
    world.sandbox.rules.add("cut-before:users:2,method=GET")
    outcome = world.lap(onboard)
    assert (outcome.failed, outcome.output["synced"]) == (0, 20)
    assert set(world.created()) == {str(one) for one in people}
    assert set(world.created().values()) == {1}


@pytest.mark.slow
def test_one_poisoned_competitor_does_not_stop_the_others(world: World) -> None:
    people = _people(world, 6)
    world.sandbox.rules.add(f"422:users,user={people[2]},method=POST,detail=Zzfirst Zzlast is not welcome")
    outcome = ended(world.run(onboard, batchSize=2))
    assert (outcome.failed, outcome.output["synced"]) == (1, 5)
    assert "Zz" not in str(outcome.output)


def test_everybody_failing_for_the_time_being_fails_the_job_with_a_retry(world: World) -> None:
    _people(world, 2)
    world.sandbox.rules.add("503:users,method=POST")
    with pytest.raises(RetryLater, match="All 2 competitors failed") as failure:
        world.lap(onboard)
    assert failure.value.seconds == 900


def _cancelled_after(world: World, context: FakeContext, posts: int) -> None:
    context.cancel_when = lambda: sum(world.created().values()) >= posts


@pytest.mark.slow
def test_a_cancelled_run_stores_what_was_created_and_starts_nothing_new(world: World) -> None:
    people = _people(world, 40)
    context = world.context()
    _cancelled_after(world, context, 3)
    with pytest.raises(Cancelled):
        world.run(onboard, context)
    created = set(world.created())
    assert 3 <= len(created) <= 3 + 2 * context.resources.settings.game_platform_concurrency
    stored = world.conn.execute(
        "select game_platform_id from competitors where game_platform_id is not null"
    ).fetchall()
    assert {row[0] for row in stored} == created
    assert world.run(onboard).output["created"] == 40 - len(created)
    assert set(world.created()) == {str(one) for one in people}


@pytest.mark.slow
def test_progress_says_how_far_the_run_is(world: World) -> None:
    _people(world, 5)
    context = world.context()
    world.run(onboard, context, batchSize=2)
    assert context.steps[-1] == (5, 5, "competitors")
    assert [done for done, _, _ in context.steps] == sorted(done for done, _, _ in context.steps)


@pytest.mark.slow
def test_a_long_run_hands_over_and_counts_everybody_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobdeck.core.programme.onboarding.laps.RUN_SECONDS", 0.0)
    people = _people(world, 5)
    context = world.context()
    first = world.run(onboard, context, batchSize=2)
    assert isinstance(first, Continue)
    assert (first.delay, first.output["synced"]) == (0, 2)
    assert world.lap(onboard, world.successor(context), batchSize=2).output["synced"] == 5
    assert set(world.created()) == {str(one) for one in people}


def test_a_dry_run_of_named_ids_says_what_is_filtered_out(world: World) -> None:
    (person,) = _people(world, 1)
    output = world.run(onboard, competitorIds=[str(person), str(uuid4()), "x"], dryRun=True, onlyActive=False).output
    assert (output["total"], output["toOnboard"]) == (3, 1)
    assert output["others"] == {"invalid_id": 1, "unknown": 1}


def test_nobody_is_fetched_or_put_on_a_team_by_onboarding(world: World) -> None:
    (person,) = _people(world, 1)
    world.team(world.person(person)["coach_id"], str(person), synced_team_id="t-1")
    world.run(onboard)
    assert _paths(world) == ["GET /users", "POST /users"]


@pytest.mark.slow
def test_two_runs_at_once_create_one_account_each(world: World, database_url: str) -> None:
    """The queue keeps two runs apart; this is what holds where it does not, as after a lease that was lost."""
    people = _people(world, 10)
    first = world.context()
    look_up = first.resources.clients.metactf.find_user
    with Connection.connect(database_url, autocommit=True) as connection:
        beside = World(connection, world.sandbox)
        second = beside.context(job_id=first.job.id)
        second.job = second.job._replace(run_token=2)
        looked: list[str] = []

        def look(syned_user_id: str) -> Any:
            looked.append(syned_user_id)
            if len(looked) == 3:
                beside.run(onboard, second)
            return look_up(syned_user_id)

        first.resources.clients.metactf.find_user = look  # type: ignore[method-assign]
        world.run(onboard, first)
    world.an_hour_later()
    world.lap(onboard, world.successor(second))
    assert set(world.created()) == {str(one) for one in people}
    assert set(world.created().values()) == {1}
    assert _count(world, "select count(*) from activity_logs") == 10
    assert _count(world, "select count(*) from competitors where game_platform_id is null") == 0
