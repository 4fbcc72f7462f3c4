"""What the jobs of the game platform share: a token that is missing or refused, a pause, and dry runs."""

from __future__ import annotations

from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.errors import PermanentError, RetryLater
from jobdeck.core.handlers import (
    game_platform_onboard_coaches,
    game_platform_onboard_competitors,
    game_platform_profile_refresh,
    game_platform_sync,
)
from jobdeck.core.programme.vendors.metactf_errors import AuthError, TokenMissing
from jobdeck.core.registry import Done
from tests.core.handlers.world import World

Json = dict[str, Any]

COACHES = game_platform_onboard_coaches
COMPETITORS = game_platform_onboard_competitors
REFRESH = game_platform_profile_refresh
SYNC = game_platform_sync


def add_people(world: World, handler: ModuleType, count: int) -> None:
    """So many people for a job to ask the vendor about."""
    coach = world.coach(account="k-1") if handler is COMPETITORS else None if handler is COACHES else world.coach()
    for _ in range(count):
        if coach is None:
            world.coach()
        elif handler is COMPETITORS:
            world.candidate(coach)
        else:
            world.competitor(coach)


@pytest.mark.parametrize("handler", [COACHES, COMPETITORS, REFRESH])
def test_a_refused_or_missing_token_stops_the_run_early_and_fails_it_for_good(
    world: World, handler: ModuleType
) -> None:
    add_people(world, handler, 30)
    before = world.everything()
    with pytest.raises(TokenMissing, match="GAME_PLATFORM_API_TOKEN"):
        world.run(handler, world.context(GAME_PLATFORM_API_TOKEN=""))
    assert world.everything() == before
    with pytest.raises(AuthError, match="GAME_PLATFORM_API_TOKEN") as failure:
        world.run(handler, world.context(GAME_PLATFORM_API_TOKEN="wrong"))
    assert isinstance(failure.value, PermanentError)
    assert len(world.sandbox.requests) < 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "rule"),
    [
        (COACHES, "429:users,method=POST,retry-after=1800"),
        (COMPETITORS, "429:users,method=POST,retry-after=1800"),
        (COMPETITORS, "429:users,method=POST,retry-after=date:1800"),
        (REFRESH, "429:users,retry-after=1800"),
        (SYNC, "429:scores,retry-after=1800"),
    ],
)
def test_a_vendor_that_asks_for_a_pause_is_given_it_and_creates_nobody_twice(
    world: World, handler: ModuleType, rule: str
) -> None:
    world.sandbox.clock = world.context().clock.wall
    # So many that five fail in a row, whatever is still under way when the first is refused.
    add_people(world, handler, 30)
    pause = world.sandbox.rules.add(rule)
    context = world.context()
    with pytest.raises(RetryLater) as failure:
        world.run(handler, context)
    assert 1700 <= failure.value.seconds <= 1800
    if handler in {REFRESH, SYNC}:
        assert len(world.sandbox.requests) < 15
    assert world.conn.row("select count(*) from game_platform_onboarding where state = 'creating'")["count"] == 0
    world.sandbox.rules.remove(pause)
    if handler in {COACHES, COMPETITORS}:
        assert world.run(handler, world.successor(context)).output["created"] == 30
        assert set(world.created().values()) == {1}


def two_accounts(world: World) -> Json:
    coach = world.coach(account="k-1")
    person = world.competitor(coach, status="user_created")
    world.candidate(coach)
    return {"total": 2, "competitors": 1, "coaches": 1, "sample": [person, str(coach)]}


def three_coaches(world: World) -> Json:
    coach = world.coach()
    world.coach(account="k-1")
    world.coach(approved=False)
    others = {"already_synced": 1, "not_approved": 1}
    return {"total": 3, "toOnboard": 1, "sample": [str(coach)], "others": others}


def four_competitors(world: World) -> Json:
    coach = world.coach()
    ready: UUID = world.candidate(coach)
    world.candidate(coach, email_personal=None)
    half_done = world.candidate(coach)
    world.map(half_done, "c-old")
    world.candidate(world.coach(approved=False))
    others = {"already_synced": 1, "coach": 1, "no_email": 1}
    return {"total": 4, "toOnboard": 1, "coachesToOnboard": 1, "others": others, "sample": [str(ready)]}


def a_sync(world: World) -> Json:
    world.everything_to_sync()
    return {}


@pytest.mark.parametrize(
    ("payload", "settings", "reason"),
    [
        ({"dryRun": True}, {}, "dryRun"),
        ({}, {"GAME_PLATFORM_INTEGRATION_ENABLED": "false"}, "GAME_PLATFORM_INTEGRATION_ENABLED"),
        ({"dryRun": True}, {"GAME_PLATFORM_API_TOKEN": ""}, "dryRun"),
        ({"dryRun": True, "mode": "wave", "batchSize": 2, "createTeams": True}, {}, "dryRun"),
    ],
    ids=["payload", "switched off", "without a token", "wave"],
)
@pytest.mark.parametrize(
    ("handler", "people"),
    [(COACHES, three_coaches), (COMPETITORS, four_competitors), (REFRESH, two_accounts), (SYNC, a_sync)],
    ids=["coaches", "competitors", "refresh", "sync"],
)
def test_a_dry_run_leaves_every_table_as_it_was_and_asks_the_vendor_nothing(
    world: World, handler: ModuleType, people: Any, payload: Json, settings: Json, reason: str
) -> None:
    if "mode" in payload and handler is not SYNC:
        payload = {"dryRun": True}
    expected = people(world)
    before = world.everything()
    context = world.context(**settings)
    outcome = world.run(handler, context, **payload)
    assert world.everything() == before
    assert world.sandbox.requests == []
    assert context.checkpoint is None
    assert isinstance(outcome, Done)
    assert outcome.dry_run
    output = outcome.output
    assert output["dryRun"] is True
    assert reason in output["dryRunReason"]
    assert {name: output[name] for name in expected} == expected
    if handler in {COACHES, COMPETITORS}:
        assert "email" in output["dataFields"]
    assert "zz" not in str(output).lower()
