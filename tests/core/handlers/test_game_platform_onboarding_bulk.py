"""Onboarding many: everybody once, at the rate that is set, in memory that does not grow with the number.

`ONBOARDING_COMPETITORS=10000 pytest -s` on this file runs the full size and prints time, rate and memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from uuid import UUID

import pytest

from jobdeck.core.registry import load
from tests.core.handlers.world import World
from tests.support.context import sandbox_settings
from tests.support.waiting import until
from tests.support.worker_process import worker_process
from tests.support.working import quick_settings, working

pytestmark = pytest.mark.slow

COMPETITORS = int(os.environ.get("ONBOARDING_COMPETITORS", "250"))
RATE = os.environ.get("ONBOARDING_RATE", "100")
GROWTH_KB = 24 * 1024


def _crowd(world: World, coach: UUID) -> None:
    world.conn.execute(
        "insert into competitors (coach_id, first_name, last_name, email_personal, grade, gender, race, ethnicity, "
        "level_of_technology, years_competing, parent_name, parent_email, status) "
        "select %s, 'Zzfirst', 'Zzlast', 'zzmail' || n || '@example.org', '10', 'g', 'r', 'e', 'some', 0, 'Zzparent', "
        "'zzparent@example.org', 'profile' from generate_series(1, %s) n",
        (coach, COMPETITORS),
    )


def _resident_kb(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0])


def test_a_bulk_onboarding_creates_everybody_once_in_flat_memory(world: World, tmp_path: Path) -> None:
    _crowd(world, world.coach(account="k-1"))
    job = world.conn.add("game_platform_onboard_competitors", max_attempts=10)
    info = world.conn.info
    url = f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}"
    settings = world.sandbox.settings_env() | {"GAME_PLATFORM_RATE_PER_SECOND": RATE, "JOBDECK_LEASE_SECONDS": "20"}
    memory: list[int] = []
    pause = Event()
    with worker_process(url, tmp_path, **settings) as worker:
        until(lambda: world.sandbox.metactf.accounts, "the first account")
        while not world.conn.outcomes(job.id) or world.conn.outcomes(job.id)[-1] == "continued":
            assert worker.poll() is None, (tmp_path / "worker.log").read_text()
            if len(world.sandbox.metactf.accounts) > COMPETITORS / 10:
                memory.append(_resident_kb(worker.pid))
            pause.wait(0.2)
    assert world.conn.outcomes(job.id)[-1] == "succeeded"
    output = world.conn.row("select output from job_runs where outcome = 'succeeded'")["output"]
    assert (output["processed"], output["created"], output["failed"]) == (COMPETITORS, COMPETITORS, 0)
    assert len(world.created()) == COMPETITORS
    assert set(world.created().values()) == {1}
    assert world.conn.row("select count(*) from activity_logs")["count"] == COMPETITORS
    assert max(memory) - memory[0] < GROWTH_KB
    print(f"\n{COMPETITORS} competitors: memory {memory[0]} to {max(memory)} kB")  # noqa: T201 -- the full size


def test_a_second_job_of_the_type_waits_for_the_first(world: World) -> None:
    coach = world.coach(account="k-1")
    people = [world.candidate(coach) for _ in range(20)]
    settings = quick_settings().having(sandbox_settings(world.sandbox, GAME_PLATFORM_RATE_PER_SECOND=1000))
    registry = load()
    job_type, params = registry.validate("game_platform_onboard_competitors", {})
    key = job_type.concurrency_key(params)
    jobs = [world.conn.add(job_type.task_type, concurrency_key=key) for _ in range(2)]
    info = world.conn.info
    url = f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}"
    with working(url, *registry, settings=settings):
        until(lambda: all(world.conn.outcomes(job.id) == ["succeeded"] for job in jobs), "both jobs")
    first, second = world.conn.execute(
        "select started_at, finished_at, output from job_runs order by started_at"
    ).fetchall()
    assert first[1] <= second[0]
    assert sorted((first[2]["created"], second[2]["created"])) == [0, 20]
    assert world.created() == {str(one): 1 for one in people}
