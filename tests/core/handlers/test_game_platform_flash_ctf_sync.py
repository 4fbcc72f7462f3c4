"""The Flash CTF sync: everyone's results, batch by batch, and nothing else; never beside another sync."""

from __future__ import annotations

from uuid import uuid4

import pytest

from jobdeck.core.errors import InvalidPayload, Snooze
from jobdeck.core.handlers import game_platform_flash_ctf_sync as flash
from jobdeck.core.handlers import game_platform_sync as whole
from jobdeck.core.programme.sandbox.metactf import flash_event, solve
from jobdeck.core.registry import Continue, load, registered
from tests.core.handlers.world import T0, World


@pytest.mark.slow
def test_everyone_is_asked_for_flash_ctfs_alone_a_batch_per_run(world: World) -> None:
    people = world.competitors(5)
    for person in people:
        world.account(person).flash = [flash_event("Spring", T0, [solve(1, T0 + 5)])]
    first = world.run(flash, batchSize=2)
    assert isinstance(first, Continue)
    assert len(world.asked("flash")) == 2
    world.sandbox.forget()
    outcome = world.lap(flash, batchSize=2)
    assert sorted(str(who) for _, who in world.asked("flash")) == sorted(people)
    assert world.asked("odl") == []
    assert all(world.stored(person, "flash_ctf") == [(f"Spring:{T0}", 1)] for person in people)
    assert outcome.output["lap"] == {"done": 5, "failed": 0, "teamsFailed": 0}
    assert outcome.output["competitors"]["wrapped"] is True


@pytest.mark.slow
def test_a_batch_has_25_people_where_the_payload_does_not_say(world: World) -> None:
    world.competitors(26)
    assert isinstance(world.run(flash, batchSize=None), Continue)
    assert len(world.asked("flash")) == 25


def test_what_the_platform_no_longer_lists_is_deleted(world: World) -> None:
    person = world.competitor(world.coach())
    account = world.account(person)
    account.flash = [flash_event("Spring", T0, [solve(1, T0), solve(2, T0)])]
    world.lap(flash)
    account.flash = [flash_event("Spring", T0, [solve(1, T0)])]
    world.lap(flash)
    assert world.stored(person, "flash_ctf") == [(f"Spring:{T0}", 1)]


def test_only_the_coachs_competitors_and_no_team(world: World) -> None:
    coach, other = world.coach(), world.coach()
    mine = world.competitor(coach)
    world.competitor(other)
    world.team(coach, mine)
    world.lap(flash, coachId=str(coach))
    assert [who for _, who in world.asked("flash")] == [mine]
    assert world.asked("team") == []


def test_a_dry_run_asks_nobody_and_tells_the_requests(world: World) -> None:
    world.competitors(3)
    outcome = world.lap(flash, dryRun=True, batchSize=2)
    assert outcome.output["competitors"]["flashCtf"] == 2
    assert world.sandbox.requests == []


def test_it_has_the_key_of_the_whole_sync(world: World) -> None:
    key = registered("game_platform_flash_ctf_sync").concurrency_key(flash.Params())
    assert key == registered("game_platform_sync").concurrency_key(whole.Params())


def test_it_gives_way_to_a_sync_that_the_queue_does_not_know(world: World) -> None:
    world.competitor(world.coach())
    world.conn.execute("insert into game_platform_sync_runs (job_id, heartbeat_at) values (%s, now())", (uuid4(),))
    with pytest.raises(Snooze, match="no attempt is counted"):
        world.run(flash)
    assert world.sandbox.requests == []


def test_the_payload_of_the_original_is_understood() -> None:
    cursor = {"createdAt": "2025-06-01T00:00:00Z", "id": str(uuid4())}
    payload = {"dryRun": False, "coachId": None, "batchSize": 25, "cursor": cursor}
    found = load().require("game_platform_flash_ctf_sync").parse(payload)
    assert isinstance(found, flash.Params)
    assert found.cursor is not None


def test_teams_cannot_be_asked_for() -> None:
    with pytest.raises(InvalidPayload, match="syncTeams"):
        load().require("game_platform_flash_ctf_sync").parse({"syncTeams": True})
