"""Dry runs that change nothing, outages that stop a run early, and no personal data anywhere."""

from __future__ import annotations

import json
import logging

import pytest

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater
from jobdeck.core.handlers.game_platform_sync import Params, preview
from jobdeck.core.programme.sandbox import sample
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.metactf_errors import AuthError, TokenMissing
from jobdeck.core.registry import Done
from tests.core.handlers.world import World
from tests.support.context import ended
from tests.support.queue import Connection

MARKS = ("Zzfirst", "Zzlast", "zzmail", "Zzcoach", "Marked", "sandbox-token")


def test_the_runners_dry_run_counts_too(world: World) -> None:
    world.everything_to_sync()
    before = world.everything()
    context = world.context()
    context.dry_run = True
    world.sync(context)
    assert world.everything() == before


@pytest.mark.slow
def test_a_preview_says_what_would_be_asked(world: World) -> None:
    people = world.everything_to_sync()
    told = preview(Params(create_teams=True), world.context())
    assert told["competitors"] == {
        "total": 3, "odlIncremental": 0, "odlFull": 3, "flashCtf": 3, "accountLookups": 3,
        "sample": told["competitors"]["sample"],
    }  # fmt: skip
    assert sorted(told["competitors"]["sample"]) == sorted(people)
    assert (told["teams"]["total"], told["teams"]["toCreate"]) == (2, 1)
    world.sync(createTeams=True)
    assert preview(Params(), world.context())["competitors"]["flashCtf"] == 0


def test_a_dry_run_needs_no_token(world: World) -> None:
    context = world.context(GAME_PLATFORM_API_TOKEN="")
    assert isinstance(world.sync(context, dryRun=True), Done)


def test_a_missing_token_fails_for_good_and_names_the_setting(world: World) -> None:
    world.competitor(world.coach())
    context = world.context(GAME_PLATFORM_API_TOKEN="")
    with pytest.raises(TokenMissing, match="GAME_PLATFORM_API_TOKEN") as failure:
        world.sync(context)
    assert isinstance(failure.value, PermanentError)
    assert isinstance(failure.value, ConfigurationError)
    assert world.conn.row("select count(*) from game_platform_sync_runs")["count"] == 0


def test_a_refused_token_stops_the_run_early_and_fails_the_job(world: World) -> None:
    people = world.competitors(30)
    before = world.state(people[0])
    context = world.context(GAME_PLATFORM_API_TOKEN="wrong")
    with pytest.raises(AuthError, match="GAME_PLATFORM_API_TOKEN") as failure:
        world.sync(context)
    assert isinstance(failure.value, PermanentError)
    assert len(world.sandbox.requests) < 15
    assert world.state(people[0]) == before
    assert world.conn.row("select status from game_platform_sync_runs")["status"] == "failed"


@pytest.mark.slow
def test_an_outage_stops_the_run_after_a_few_and_says_when_it_goes_on(world: World) -> None:
    people = world.competitors(30)
    world.sandbox.rules.add("cut-before:scores")
    with pytest.raises(
        RetryLater,
        match=r"The sync stopped after 5 of 30 competitors; a retry waits 5 minutes\. Last error: .*no full answer",
    ):
        world.sync()
    asked = {who for _, who in world.asked("scores")}
    assert len(asked) < 15
    assert all(world.person(person)["game_platform_sync_error"] is None for person in people)


@pytest.mark.slow
def test_now_and_then_a_failure_does_not_stop_a_run(world: World) -> None:
    people = world.competitors(12)
    for person in people:
        world.solves(person, 1)
    world.sandbox.rules.add("503:*:/3")
    outcome = ended(world.sync(world.context(GAME_PLATFORM_CONCURRENCY=1)))
    assert outcome.failed == 0
    assert all(world.stored(person) for person in people)


def test_a_malformed_answer_is_not_asked_for_again(world: World) -> None:
    person, _ = world.competitor(coach := world.coach()), world.competitor(coach)
    world.sandbox.rules.add(f"malformed:scores,user={person}")
    world.sync()
    assert [who for _, who in world.asked("odl")].count(person) == 1


@pytest.mark.slow
def test_no_personal_data_in_logs_outputs_errors_or_health(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    people = world.everything_to_sync()
    world.conn.execute("update teams set name = 'Zzlast team' where game_platform_id is null")
    world.sandbox.rules.add(f"422:scores,user={people[2]},detail=zzmail@example.org is not known")
    world.sandbox.rules.add("503:flash:2")
    outcomes = [world.sync(createTeams=True).output, world.sync(dryRun=True).output]
    world.sandbox.rules.add("500:scores")
    with pytest.raises(RetryLater) as failure:
        world.sync()
    health = [
        world.conn.execute(query.encode()).fetchall()
        for query in (
            "select error_message from game_platform_sync_state",
            "select error_message from game_platform_sync_runs",
            "select sync_error from game_platform_profiles",
            "select game_platform_sync_error from competitors",
            "select game_platform_sync_error from teams",
        )
    ]
    printed = capsys.readouterr()
    seen = [
        json.dumps(outcomes), str(failure.value), str(health), printed.out, printed.err,
        "\n".join(record.getMessage() for record in caplog.records), str(world.sandbox.requests),
    ]  # fmt: skip
    assert any("422" in str(part) for part in health)
    for mark in MARKS:
        assert not any(mark in text for text in seen), mark


@pytest.mark.slow
def test_the_sample_loads_twice_and_syncs_with_something_new_each_time(conn: Connection) -> None:
    with Sandbox() as sandbox:
        world = World(conn, sandbox)
        sample.load(conn)
        before = world.everything()
        sample.load(conn)
        assert world.everything() == before
        first, second, third = (world.sync() for _ in range(3))
    told = first.output["competitors"]
    assert told["byStatus"]["not_approved"] == told["byStatus"]["remote_missing"] == 1
    assert (first.output["teams"]["assigned"], first.output["teams"]["unassigned"]) == (2, 1)
    assert second.output["competitors"]["newSolves"] > 0
    assert third.output["competitors"]["newSolves"] > 0
