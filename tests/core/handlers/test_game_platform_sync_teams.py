"""Teams: the platform's rosters become ours, by the difference, and never by mistake."""

from __future__ import annotations

from uuid import UUID

import pytest

from jobdeck.core.errors import RetryLater
from jobdeck.core.programme.sync import teams
from jobdeck.core.registry import Continue
from tests.core.handlers.world import World
from tests.support.context import ended
from tests.support.queue import Connection


def _roster(world: World, team: str) -> set[str]:
    return {one.syned_user_id for one in world.sandbox.metactf.accounts.values() if one.team == team}


def _changes(world: World) -> list[tuple[str, str | None]]:
    return [(seen.path, seen.user) for seen in world.sandbox.requests if seen.mutating]


@pytest.mark.slow
def test_only_the_difference_is_sent(world: World) -> None:
    coach = world.coach()
    there, missing, gone = (world.competitor(coach) for _ in range(3))
    world.team(coach, there, missing, synced_team_id="t-1")
    world.account(there).team = world.account(gone).team = "t-1"
    outcome = world.sync()
    assert _roster(world, "t-1") == {there, missing}
    assert sorted(_changes(world)) == [("/users/assign_team", missing), ("/users/delete_assignment", gone)]
    assert outcome.output["teams"] == {
        "total": 1, "synced": 1, "failed": 0, "byStatus": {"synced": 1}, "assigned": 1, "unassigned": 1,
        "membersWithoutAccount": 0, "errors": [],
    }  # fmt: skip
    world.sandbox.forget()
    world.sync()
    assert _changes(world) == []


def test_a_local_reading_error_unassigns_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    coach = world.coach()
    people = [world.competitor(coach) for _ in range(2)]
    world.team(coach, *people, synced_team_id="t-1")
    for person in people:
        world.account(person).team = "t-1"

    def broken(*_: object) -> list[str | None]:
        raise RuntimeError("reading failed")

    monkeypatch.setattr(teams, "members", broken)
    with pytest.raises(RuntimeError):
        world.sync()
    assert _roster(world, "t-1") == set(people)


def test_whoever_moved_on_meanwhile_is_not_taken_off_the_new_team(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    coach = world.coach()
    stays, mover = world.competitor(coach), world.competitor(coach)
    world.team(coach, stays, synced_team_id="t-1")
    world.account(stays).team = world.account(mover).team = "t-1"
    read = teams.members

    def read_while_someone_moves(conn: Connection, team: UUID) -> list[str | None]:
        world.account(mover).team = "t-elsewhere"
        return read(conn, team)

    monkeypatch.setattr(teams, "members", read_while_someone_moves)
    world.sync()
    assert _roster(world, "t-elsewhere") == {mover}
    assert _changes(world) == []


def test_a_roster_that_would_lose_everyone_is_left_alone(world: World) -> None:
    coach = world.coach()
    people = [world.competitor(coach) for _ in range(2)]
    without = world.competitor(coach, on_platform=False, status=None, logged_in=False)
    world.team(coach, without, synced_team_id="t-1")
    for person in people:
        world.account(person).team = "t-1"
    outcome = world.sync()
    assert _roster(world, "t-1") == set(people)
    assert outcome.output["teams"]["byStatus"] == {"refused": 1}
    assert (
        "No member was removed"
        in world.conn.row("select game_platform_sync_error from teams")["game_platform_sync_error"]
    )


def test_a_team_that_is_empty_here_is_emptied_there(world: World) -> None:
    coach = world.coach()
    people = [world.competitor(coach) for _ in range(2)]
    world.team(coach, synced_team_id="t-1")
    for person in people:
        world.account(person).team = "t-1"
    world.sync()
    assert _roster(world, "t-1") == set()


def test_a_member_known_only_to_the_mapping_is_not_taken_off(world: World) -> None:
    coach = world.coach()
    person, other = world.competitor(coach), world.competitor(coach)
    world.team(coach, person, other, synced_team_id="t-1")
    world.account(person).team = world.account(other).team = "t-1"
    world.conn.execute("update competitors set game_platform_id = null where id = %s", (person,))
    world.sync()
    assert _roster(world, "t-1") == {person, other}


def test_a_coach_on_the_platforms_roster_is_not_taken_off(world: World) -> None:
    coach = world.coach(account="coach-account")
    person = world.competitor(coach)
    world.team(coach, person, synced_team_id="t-1")
    world.sandbox.metactf.add_account("coach-account", role="coach", team="t-1")
    world.account(person).team = "t-1"
    world.sync()
    assert _roster(world, "t-1") == {person, "coach-account"}


@pytest.mark.parametrize("moves", [True, False])
def test_a_competitor_moves_between_teams_whichever_way_the_vendor_has_it(world: World, moves: bool) -> None:
    world.sandbox.metactf.switches.moves_between_teams = moves
    coach = world.coach()
    mover, stayer = world.competitor(coach), world.competitor(coach)
    world.team(coach, mover, synced_team_id="t-new")
    world.team(coach, stayer, synced_team_id="t-old")
    world.account(mover).team = world.account(stayer).team = "t-old"
    outcome = world.sync()
    assert (_roster(world, "t-new"), _roster(world, "t-old")) == ({mover}, {stayer})
    assert outcome.output["teams"]["failed"] == 0


def test_a_member_the_vendor_refuses_does_not_keep_the_others_off(world: World) -> None:
    coach = world.coach()
    lost, fine = world.competitor(coach, remote=None), world.competitor(coach)
    world.team(coach, lost, fine, synced_team_id="t-1")
    outcome = ended(world.sync())
    assert _roster(world, "t-1") == {fine}
    assert outcome.output["teams"]["byStatus"] == {"partial": 1}


@pytest.mark.parametrize("approved", [True, False])
def test_a_team_needs_an_approved_coach(world: World, approved: bool) -> None:
    coach = world.coach(approved=approved)
    person = world.competitor(coach)
    world.team(coach, person, synced_team_id="t-1")
    world.sync()
    assert _roster(world, "t-1") == ({person} if approved else set())


@pytest.mark.slow
def test_teams_are_created_only_when_asked_for(world: World) -> None:
    coach = world.coach(account="k-1")
    person = world.competitor(coach)
    team = world.team(coach, person)
    assert world.sync().output["teams"]["total"] == 0
    assert world.sync(createTeams=True).output["teams"]["byStatus"] == {"created": 1}
    assert _roster(world, str(team)) == {person}
    assert world.conn.row("select game_platform_id from teams")["game_platform_id"] == str(team)
    mapping = world.conn.row("select * from game_platform_teams")
    assert (mapping["synced_team_id"], mapping["status"]) == (str(team), "approved")
    assert mapping["metactf_team_id"] == world.sandbox.metactf.teams[str(team)].metactf_team_id


@pytest.mark.slow
def test_a_team_whose_creation_was_never_answered_is_adopted_next_time(world: World) -> None:
    world.sandbox.metactf.switches.duplicate_create = "409"
    coach = world.coach(account="k-1")
    person = world.competitor(coach)
    team = world.team(coach, person)
    world.sandbox.rules.add("cut-after:/teams:1")
    assert world.sync(createTeams=True).output["teams"]["byStatus"] == {"error": 1}
    assert world.sync(createTeams=True).output["teams"]["byStatus"] == {"created": 1}
    assert _roster(world, str(team)) == {person}


def test_a_team_without_a_usable_coach_account_says_what_to_run(world: World) -> None:
    coach = world.coach()
    world.team(coach, world.competitor(coach))
    told = world.sync(createTeams=True).output["teams"]
    assert told["byStatus"] == {"no_coach": 1}
    assert "game_platform_onboard_coaches" in told["errors"][0]["message"]


@pytest.mark.slow
def test_one_coachs_sync_leaves_other_coaches_teams_alone(world: World) -> None:
    mine, other = world.coach(), world.coach()
    world.team(mine, world.competitor(mine), synced_team_id="t-mine")
    world.team(other, world.competitor(other), synced_team_id="t-other")
    world.sync(coachId=str(mine))
    assert _roster(world, "t-other") == set()


@pytest.mark.slow
def test_an_outage_among_the_teams_goes_on_with_the_teams(world: World) -> None:
    coach = world.coach()
    people = [world.competitor(coach) for _ in range(5)]
    for number, person in enumerate(people):
        world.team(coach, person, synced_team_id=f"t-{number}")
    world.sandbox.rules.add("503:assignments")
    context = world.context()
    with pytest.raises(RetryLater, match="of 5 teams"):
        world.sync(context)
    world.sandbox.rules.clear()
    world.sandbox.forget()
    ended(world.sync(world.context(checkpoint=context.checkpoint, job_id=context.job.id)))
    assert world.asked("scores") == []
    assert all(_roster(world, f"t-{number}") == {person} for number, person in enumerate(people))


def test_a_wave_syncs_teams_when_it_wraps(world: World) -> None:
    coach = world.coach()
    people = [world.competitor(coach) for _ in range(3)]
    world.team(coach, people[0], synced_team_id="t-1")
    context = world.context()
    first = world.sync(context, batchSize=2)
    assert isinstance(first, Continue)
    assert first.output["teams"]["total"] == 0
    last = ended(world.sync(world.context(checkpoint=first.checkpoint, job_id=context.job.id), batchSize=2))
    assert last.output["teams"]["total"] == 1
