"""Workers that are killed at each point where they talk to the vendor; another one finishes what they began."""

from __future__ import annotations

import random
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.programme.onboarding import laps
from jobdeck.core.programme.sandbox.metactf import Reply
from jobdeck.core.programme.vendors.metactf import MetaCtfClient
from jobdeck.core.registry import load
from tests.core.handlers.world import World
from tests.support.context import sandbox_settings
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import STANDING, bury, worker_process
from tests.support.working import quick_settings, working

pytestmark = pytest.mark.slow

SETTINGS = {
    **STANDING,
    "GAME_PLATFORM_RATE_PER_SECOND": "1000",
}


class Trap:
    """Kills a process at the nth request to a path, before the vendor acts on it or after; the answer is never seen."""

    def __init__(self, world: World, nth: int, *, after: bool, path: str = "") -> None:
        self.sprung = threading.Event()
        self._path = path
        self._answer = world.sandbox.metactf.answer
        self._left = nth
        self._after = after
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        world.sandbox.metactf.answer = self._trapped  # type: ignore[method-assign]

    def _trapped(self, method: str, path: str, fields: Mapping[str, Any]) -> Reply:
        with self._lock:
            self._left -= path.endswith(self._path)
            springs = self._left == 0 and not self.sprung.is_set() and path.endswith(self._path)
        if not springs:
            return self._answer(method, path, fields)
        reply = self._answer(method, path, fields) if self._after else None
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.sprung.set()
        if reply is None:
            raise ConnectionAbortedError
        return reply


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that was killed is dead for certain, so that its doubts need not be waited out."""
    monkeypatch.setattr(MetaCtfClient, "doubt_seconds", 0.2)
    monkeypatch.setattr(laps, "SECOND_LOOK_SECONDS", 0.0)


def _url(world: World) -> str:
    info = world.conn.info
    return f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}"


def _killed(world: World, folder: Path, nth: int, *, after: bool, concurrency: int = 1, path: str = "") -> None:
    trap = Trap(world, nth, after=after, path=path)
    settings = world.sandbox.settings_env() | SETTINGS | {"GAME_PLATFORM_CONCURRENCY": str(concurrency)}
    with worker_process(_url(world), folder, **settings) as process:
        trap.process = process
        assert trap.sprung.wait(PATIENCE), (folder / "worker.log").read_text()
    bury(_url(world))


def _finished(world: World, job: UUID) -> None:
    settings = quick_settings().having(sandbox_settings(world.sandbox, GAME_PLATFORM_RATE_PER_SECOND="1000"))
    with working(_url(world), *load(), settings=settings):
        until(lambda: world.conn.outcomes(job)[-1:] == ["succeeded"], "the end of the job")


def _judge(world: World, people: list[UUID], before: int = 0) -> None:
    """One account, one mapping and one audit for each."""
    asked = world.created()
    assert set(asked) == {str(one) for one in people}
    assert set(asked.values()) == {1}
    assert len(world.sandbox.metactf.accounts) == len(people) + before
    mapped = world.conn.execute("select synced_user_id from game_platform_profiles where metactf_user_id is not null")
    assert sorted(row[0] for row in mapped) == sorted(str(one) for one in people)
    audited = world.conn.execute(
        "select entity_id, count(*), min(metadata ->> 'result') from activity_logs group by 1"
    ).fetchall()
    assert sorted(audited) == sorted((one, 1, "created") for one in people)
    assert world.conn.execute("select distinct state from game_platform_onboarding").fetchall() == [("done",)]


COMPETITOR_POINTS = ["GET coach", "POST coach", "GET one", "GET other", "POST one", "POST other"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", range(1, len(COMPETITOR_POINTS) + 1), ids=COMPETITOR_POINTS)
def test_onboarding_competitors_killed_at_any_request_ends_with_one_account_each(
    world: World, tmp_path: Path, nth: int, after: bool
) -> None:
    coach = world.coach()
    people = [coach, *(world.candidate(coach) for _ in range(2))]
    job = world.conn.add("game_platform_onboard_competitors", concurrency_key="onboard")
    _killed(world, tmp_path, nth, after=after)
    _finished(world, job.id)
    assert world.conn.outcomes(job.id)[0] == "lost"
    _judge(world, people)
    output = world.conn.row("select output from job_runs where outcome = 'succeeded'")["output"]
    assert (output["processed"], output["synced"], output["created"], output["failed"]) == (2, 2, 2, 0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2], ids=["GET", "POST"])
def test_onboarding_a_coach_killed_at_any_request_ends_with_one_account(
    world: World, tmp_path: Path, nth: int, after: bool
) -> None:
    coach = world.coach()
    job = world.conn.add("game_platform_onboard_coaches", payload={"coachId": str(coach)})
    _killed(world, tmp_path, nth, after=after)
    _finished(world, job.id)
    _judge(world, [coach])


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_refresh_that_is_killed_at_any_request_is_finished_by_another_worker(
    world: World, tmp_path: Path, nth: int
) -> None:
    people = [world.competitor(world.coach(), status="user_created") for _ in range(3)]
    job = world.conn.add("game_platform_profile_refresh")
    _killed(world, tmp_path, nth, after=nth == 2)
    _finished(world, job.id)
    assert {world.mapping(one)["status"] for one in people} == {"approved"}
    assert world.conn.row("select output from job_runs where outcome = 'succeeded'")["output"]["refreshed"] == 3
    assert world.mutations() == []


def test_a_reonboarding_that_is_killed_after_the_vendor_acted_keeps_one_mapping(world: World, tmp_path: Path) -> None:
    person = world.candidate(world.coach(account="k-1"), status="complete", game_platform_id="c-old")
    world.map(person, "c-old")
    payload = {"competitorIds": [str(person)], "forceReonboard": True}
    job = world.conn.add("game_platform_onboard_competitors", payload=payload)
    _killed(world, tmp_path, 2, after=True)
    assert world.mapping(person)["synced_user_id"] == world.person(person)["game_platform_id"] == "c-old"
    _finished(world, job.id)
    _judge(world, [person])
    assert world.person(person)["game_platform_id"] == str(person)


def test_a_bulk_onboarding_that_is_killed_three_times_creates_everybody_once(world: World, tmp_path: Path) -> None:
    coach = world.coach(account="k-1")
    people = [world.candidate(coach) for _ in range(60)]
    job = world.conn.add("game_platform_onboard_competitors", payload={"batchSize": 20}, max_attempts=10)
    for after in (True, False, True):
        _killed(world, tmp_path, random.randint(3, 30), after=after, concurrency=4)
    _finished(world, job.id)
    _judge(world, people)
    output = world.conn.row("select output from job_runs where outcome = 'succeeded'")["output"]
    assert (output["processed"], output["created"]) == (60, 60)


SYNC_POINTS = [
    pytest.param("users", False, id="look an account up"),
    pytest.param("get_odl_scores", False, id="scores"),
    pytest.param("get_flash_ctf_progress", False, id="flash"),
    pytest.param("get_team_assignments", False, id="roster"),
    pytest.param("assign_team", False, id="before assign"),
    pytest.param("assign_team", True, id="after assign"),
    pytest.param("delete_assignment", False, id="before unassign"),
    pytest.param("delete_assignment", True, id="after unassign"),
    pytest.param("teams", False, id="before create team"),
    pytest.param("teams", True, id="after create team"),
]


@pytest.mark.parametrize(("path", "after"), SYNC_POINTS)
def test_a_sync_that_is_killed_at_any_request_is_finished_by_another_worker(
    world: World, tmp_path: Path, path: str, after: bool
) -> None:
    world.sandbox.metactf.switches.duplicate_create = "409"
    coach = world.coach(account="k-1")
    person, gone = world.competitor(coach, logged_in=False), world.competitor(coach)
    world.solves(person, 1, 2)
    world.team(coach, person, synced_team_id="t-1")
    fresh = world.team(coach)
    world.account(gone).team = "t-1"
    job = world.conn.add("game_platform_sync", payload={"createTeams": True})
    _killed(world, tmp_path, 1, after=after, path=path)
    _finished(world, job.id)
    assert world.conn.outcomes(job.id) == ["lost", "succeeded"]
    assert world.stored(person) == [("", 1), ("", 2)]
    assert world.state(person)["needs_totals_refresh"] is True
    assert {one: world.account(one).team for one in (person, gone)} == {person: "t-1", gone: None}
    created = world.conn.row("select game_platform_id from teams where id = %s", fresh)["game_platform_id"]
    assert set(world.sandbox.metactf.teams) == {"t-1", created}
    asked = Counter(seen.path for seen in world.sandbox.requests if seen.mutating and seen.status == 201)
    assert asked["/teams"] == 1
    runs = world.conn.execute("select status, count(*) from game_platform_sync_runs group by 1 order by 1").fetchall()
    assert runs == [("completed", 1), ("failed", 1)]
