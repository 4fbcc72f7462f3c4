"""One incident from first failure to green: MetaCTF is down, people are told, somebody steps in, all is well again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core import registry
from jobdeck.core.model import Verdict
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.read import history
from jobdeck.core.read.stats import error_groups
from jobdeck.core.read.verdict.health import health
from tests.core.alerts.test_sentry import Receiver, receiving
from tests.core.cli.support import Jobdeck
from tests.core.handlers.world import World
from tests.core.http.support import opened, pass_time
from tests.support.queue import Connection

MINUTE = timedelta(minutes=1)
TYPE = "game_platform_sync"
REASON = "MetaCTF answers 503 since noon"


def failures(sentry: Receiver) -> list[dict[str, Any]]:
    return [event for event in sentry.events if event["tags"].get("task_type") == TYPE]


def troubles(conn: Connection) -> dict[str, Verdict]:
    """The signals that are not well, without the failure share: whether it is judged depends on the minute."""
    findings = [one for one in health().run(conn).findings if one.signal != "failures"]
    return {one.signal: one.verdict for one in findings if one.verdict is not Verdict.OK}


@pytest.mark.slow
@pytest.mark.limit(300)
def test_a_vendor_fails_and_recovers(database_url: str, conn: Connection, jobdeck: Jobdeck) -> None:
    with Sandbox() as sandbox, receiving() as sentry:
        world = World(conn, sandbox)
        jobs = []
        for _ in range(4):
            coach = world.coach()
            world.solves(world.competitor(coach), 1, 2)
            jobs.append(conn.add(TYPE, payload={"coachId": str(coach)}, max_attempts=2))
        vendor = {
            name: value
            for name, value in CompetitionSettings.model_validate(sandbox.settings_env())
            if name.startswith("game_platform")
        }
        types = [found for name in registry.load().names if (found := registry.load().get(name)) is not None]
        with opened(database_url, *types, sentry_dsn=sentry.dsn, **vendor) as door:
            # The vendor goes down. Attempts that will be repeated are nobody's business.
            sandbox.rules.add("503:*,retry-after=0")
            assert door.run("POST", {"limit": 10}).data["failed"] == 4
            assert failures(sentry) == []
            assert {conn.status_of(job.id) for job in jobs} == {"pending"}

            # The last attempt fails as well: one event per job, grouped as the list of errors groups them.
            pass_time(conn, timedelta(hours=2))
            assert door.run("POST", {"limit": 10}).data["failed"] == 4
            door.door._alerts._client.flush(5)  # type: ignore[union-attr]  # it has one
            assert {conn.status_of(job.id) for job in jobs} == {"failed"}
            (group,) = error_groups.groups(since=timedelta(hours=1)).run(conn)
            assert set(group.job_ids) == {job.id for job in jobs}
            assert "503" in group.sample

            # Somebody reads it, and stops the queue with a reason.
            shown = jobdeck("errors", "--json").data["errors"]
            assert [one["count"] for one in shown if one["fingerprint"] == group.fingerprint] == [8]
            assert jobdeck("pause", "--reason", REASON).code == 0
            paused = door.run()
            assert (paused.status, paused.data["status"], paused.data["message"]) == (200, "paused", REASON)
            assert troubles(conn) == {"processing": Verdict.PAUSED}

            # The vendor is back. One job is tried, then the rest, and the queue goes on.
            sandbox.rules.clear()
            canary, *rest = jobs
            assert jobdeck("retry", str(canary.id), "--reason", "canary").code == 0
            assert jobdeck("resume").code == 0
            assert door.run().data["succeeded"] == 1
            assert conn.status_of(canary.id) is None
            command = ("retry", *(str(job.id) for job in rest), "--yes", "--reason", "the canary lives")
            assert jobdeck(*command).code == 0
            told = door.run("POST", {"limit": 10}).data
            assert (told["succeeded"], told["failed"]) == (3, 0)
            assert {conn.status_of(job.id) for job in jobs} == {None}

        assert len(failures(sentry)) == 4
        assert {event["tags"]["job_id"] for event in failures(sentry)} == {str(job.id) for job in jobs}
        assert {tuple(event["fingerprint"]) for event in failures(sentry)} == {("job_runner", TYPE, group.fingerprint)}
        assert "Zz" not in "".join(sentry.raw)
        for context in world.contexts:
            context.close()

    assert jobdeck("health", "--json").code == 0
    assert troubles(conn) == {}
    story = [
        (entry.action, entry.job_id in {job.id for job in jobs}, entry.reason)
        for entry in reversed(history.audit().run(conn))
        if entry.action in {"pause", "retry", "resume"}
    ]
    assert story == [
        ("pause", False, REASON),
        ("retry", True, "canary"),
        ("resume", False, None),
        *[("retry", True, "the canary lives")] * 3,
    ]
