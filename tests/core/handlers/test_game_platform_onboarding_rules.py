"""Who may be onboarded, what is sent of them, and where personal data must not appear."""

from __future__ import annotations

import json
import logging
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.errors import PermanentError
from jobdeck.core.handlers import (
    game_platform_onboard_coaches,
    game_platform_onboard_competitors,
    game_platform_profile_refresh,
    game_platform_totals_sweep,
)
from jobdeck.core.programme.onboarding import candidates
from jobdeck.core.programme.onboarding.candidates import (
    Newcomer,
    Refusal,
    competitor_username,
    new_coach,
    new_competitor,
)
from jobdeck.core.programme.sandbox import sample
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.registry import load
from tests.core.handlers.world import World
from tests.support.queue import Connection

MINOR = {"is_18_or_over": False}
ADULT = {"is_18_or_over": True, "email_school": "zz@example.org", "parent_name": None, "parent_email": None}
MARKS = ("Zzfirst", "Zzlast", "zzmail", "Zzparent", "zzparent", "Zzcoach", "zzcoach", "Marked", "zzgender", "zzrace",
         "zzethnicity", "sandbox-token")  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "without", "with_account"),
    [
        (MINOR, "profile", "in_the_game_not_compliant"),
        (MINOR | {"media_release_date": "2026-01-01T00:00Z"}, "profile", "complete"),
        (MINOR | {"participation_agreement_date": "2026-01-01T00:00Z"}, "profile", "in_the_game_not_compliant"),
        ({"is_18_or_over": None}, "profile", "in_the_game_not_compliant"),
        ({"is_18_or_over": None, "parent_name": " "}, "pending", "pending"),
        (MINOR | {"parent_email": None}, "pending", "pending"),
        (MINOR | {"years_competing": 0}, "profile", "in_the_game_not_compliant"),
        (MINOR | {"years_competing": None}, "pending", "pending"),
        *[(MINOR | {name: ""}, "pending", "pending")
          for name in ("grade", "gender", "race", "ethnicity", "level_of_technology")],
        (ADULT, "profile", "in_the_game_not_compliant"),
        (ADULT | {"participation_agreement_date": "2026-01-01T00:00Z"}, "profile", "complete"),
        (ADULT | {"media_release_date": "2026-01-01T00:00Z"}, "profile", "in_the_game_not_compliant"),
        (ADULT | {"email_school": " "}, "pending", "pending"),
    ],
)  # fmt: skip
def test_a_status_follows_from_what_is_filled_in(
    world: World, columns: dict[str, Any], without: str, with_account: str
) -> None:
    person = world.candidate(world.coach(), **columns)
    assert candidates.statuses(world.conn, [person], has_account=False) == {person: without}
    assert candidates.statuses(world.conn, [person], has_account=True) == {person: with_account}


def _competitor(**changes: Any) -> candidates.Competitor:
    person = UUID("00000000-0000-4000-8000-00000000abcd")
    given: dict[str, Any] = {
        "id": person, "first_name": "Ann", "last_name": "Example", "email_personal": "ann@example.org",
        "email_school": None, "status": "profile", "platform_id": None, "syned_school_id": None,
        "syned_region_id": None, "syned_coach_user_id": None, "in_scope": True, "synced_user_id": str(person),
        "mapped_id": None, "mapped_status": None, "coach_id": uuid4(), "coach_approved": True,
        "coach_school": "Example High", "coach_region": "IE", "coach_division": "high_school",
        "coach_mapped_id": "k-1", "coach_mapped_status": "approved", "taken": False, "state": None,
    } | changes  # fmt: skip
    return candidates.Competitor(**given)


def _coach(**changes: Any) -> candidates.Coach:
    coach = UUID("00000000-0000-4000-8000-00000000c0ac")
    given: dict[str, Any] = {
        "id": coach, "email": "coach@example.org", "full_name": "Bo Van Example", "first_name": "Bo",
        "last_name": "Van Example", "school_name": "Example High", "division": "college", "region": None,
        "is_coach": True, "approved": True, "synced_user_id": str(coach), "mapped_id": None, "mapped_status": None,
        "profile_id": None, "taken": False, "state": None, "outcome": None, "message": None,
    } | changes  # fmt: skip
    return candidates.Coach(**given)


@pytest.mark.parametrize(
    ("first", "last", "email", "name"),
    [("Ann", "Example", "x@example.org", "ann.example"), ("Zoë Mae", "O'Hara", "x@example.org", "zomae.ohara"),
     ("A" * 30, "B" * 30, "x@example.org", "a" * 30 + ".b"), ("李", "明", "li.ming@example.org", "li.ming"),
     ("李", "明", "明@example.org", "competitor-00000000000040008000000")],
)  # fmt: skip
def test_a_competitors_name_there_is_made_of_the_name_the_address_or_the_id(
    first: str, last: str, email: str, name: str
) -> None:
    made = competitor_username(_competitor(first_name=first, last_name=last), email)
    assert made == name[:32]
    assert len(made) <= 32


def test_a_competitor_is_sent_with_the_coachs_school_and_region_unless_they_have_their_own() -> None:
    made = new_competitor(_competitor(), "k-1")
    assert isinstance(made, Newcomer)
    assert made.new.model_dump() == {
        "first_name": "Ann", "last_name": "Example", "email": "ann@example.org", "role": "user",
        "syned_user_id": "00000000-0000-4000-8000-00000000abcd", "preferred_username": "ann.example",
        "syned_school_id": "Example High", "syned_region_id": "IE", "syned_coach_user_id": "k-1",
    }  # fmt: skip
    own = new_competitor(_competitor(syned_school_id="S", syned_region_id="R"), "k-1")
    assert isinstance(own, Newcomer)
    assert (own.new.syned_school_id, own.new.syned_region_id) == ("S", "R")
    bare = new_competitor(_competitor(coach_school=" ", coach_region=None, coach_division=None), "k-1")
    assert isinstance(bare, Newcomer)
    assert (bare.new.syned_school_id, bare.new.syned_region_id) == ("Unknown School", "high_school")


def test_a_coach_is_sent_with_one_rule_for_name_and_region() -> None:
    made = new_coach(_coach())
    assert isinstance(made, Newcomer)
    assert (made.new.role, made.new.syned_region_id, made.new.preferred_username) == (
        "coach",
        "college",
        "bo.vanexample",
    )
    split = new_coach(_coach(first_name=" ", last_name="", region="IE"))
    assert isinstance(split, Newcomer)
    assert (split.new.first_name, split.new.last_name, split.new.syned_region_id) == ("Bo", "Van Example", "IE")
    nameless = new_coach(_coach(first_name="", last_name="", full_name=""))
    assert isinstance(nameless, Newcomer)
    assert (nameless.new.first_name, nameless.new.last_name) == ("Coach", "User")


@pytest.mark.parametrize("changes", [{"email_personal": "zz mail@example.org"}, {"last_name": ""}])
def test_what_cannot_be_sent_is_told_by_field_and_without_its_value(changes: dict[str, Any]) -> None:
    made = new_competitor(_competitor(**changes), "k-1")
    assert isinstance(made, Refusal)
    assert "is missing or malformed" in made.message
    assert "zz" not in made.message


def test_a_coach_is_refused_by_the_same_rule_everywhere() -> None:
    for changes in ({"is_coach": False}, {"approved": False}, {"taken": True}):
        assert _coach(**changes).refusal
    assert _coach().refusal is None
    assert _competitor(coach_approved=False).refusal


def test_the_task_types_are_what_the_playbook_says() -> None:
    registry = load()
    told = {
        name: (registry.require(name).label, registry.require(name).purpose, registry.require(name).recurring)
        for name in registry.names
        if name.startswith("game_platform_")
    }
    minutes = {name: default for name, (_, _, default) in told.items()}
    assert {name: words[:2] for name, words in told.items()} == {
        "game_platform_flash_ctf_sync": ("Flash CTF Sync", "Fetch Flash CTF results from MetaCTF"),
        "game_platform_sync": ("Game Platform Sync", "Sync competitors and teams with MetaCTF"),
        "game_platform_totals_sweep": ("Totals Sweep", "Batch compute cumulative scores"),
        "game_platform_profile_refresh": ("Profile Refresh", "Update competitor profiles from game platform"),
        "game_platform_onboard_competitors": ("Onboard Competitors", "Bulk add competitors to game platform"),
        "game_platform_onboard_coaches": ("Onboard Coaches", "Bulk add coaches to game platform"),
    }
    assert (minutes["game_platform_totals_sweep"], minutes["game_platform_onboard_coaches"]) == (15, None)
    assert all(registry.require(name).preview for name in told)
    assert all(registry.require(name).concurrency in {"type", "key:game_platform_sync"} for name in told)
    assert all(registry.require(name).field("coachId") for name in told)


@pytest.mark.slow
def test_no_personal_data_in_logs_outputs_errors_audit_or_ledger(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    coach = world.coach()
    people = [world.candidate(coach) for _ in range(6)]
    world.candidate(coach, email_personal="zzmail at example.org")
    echo = f"Zzfirst Zzlast zzmail-{people[0]}@example.org is taken"
    world.sandbox.rules.add(f"422:users,user={people[0]},method=POST,detail={echo}")
    world.sandbox.rules.add(f"409:users,user={people[1]},method=POST,detail=zzmail-{people[1]}@example.org exists")
    world.sandbox.rules.add(f"cut-after:users:1,user={people[2]},method=POST")
    world.sandbox.rules.add(f"schema:users:1,user={people[3]},method=POST")
    now_and_then = world.sandbox.rules.add("503:users:/5")
    told = [
        json.dumps(world.lap(game_platform_onboard_competitors).output),
        json.dumps(world.run(game_platform_onboard_competitors, dryRun=True).output),
        json.dumps(world.lap(game_platform_onboard_coaches).output),
    ]
    world.sandbox.rules.remove(now_and_then)
    named = [str(people[0])]
    with pytest.raises(PermanentError) as failure:
        world.lap(game_platform_onboard_competitors, competitorIds=named)
    kept = [
        world.conn.execute(query.encode()).fetchall()
        for query in (
            "select to_jsonb(o) from game_platform_onboarding o",
            "select to_jsonb(a) from activity_logs a",
            "select sync_error from game_platform_profiles",
            "select game_platform_sync_error from competitors",
        )
    ]
    printed = capsys.readouterr()
    seen = [*told, str(failure.value), str(kept), printed.out, printed.err, caplog.text, str(world.sandbox.requests),
            repr(world.sandbox.metactf.accounts)]  # fmt: skip
    for mark in MARKS:
        assert not any(mark in text for text in seen), mark


def test_errors_are_told_up_to_twenty_and_counted_exactly(world: World) -> None:
    coach = world.coach(account="k-1")
    for _ in range(25):
        world.candidate(coach, email_personal=None)
    world.candidate(coach)
    output = world.run(game_platform_onboard_competitors).output
    assert (output["failed"], len(output["errors"]), output["synced"]) == (25, 20, 1)


@pytest.mark.slow
def test_the_sample_gives_each_type_something_to_do_every_time_it_is_loaded(conn: Connection) -> None:
    for _ in range(2):
        with Sandbox() as sandbox:
            world = World(conn, sandbox)
            sample.load(conn)
            assert world.lap(game_platform_onboard_coaches).output["created"] == 1
            told = world.lap(game_platform_onboard_competitors).output
            assert told["created"] == sample.NOT_ON_PLATFORM - 2
            assert told["failedByReason"] == {"conflict": 1, "no_email": 1}
            refreshed = world.run(game_platform_profile_refresh).output
            assert (refreshed["missing"], refreshed["failed"]) == (1, 1)
            world.sync()
            assert world.run(game_platform_totals_sweep).output["refreshed"] > 0
