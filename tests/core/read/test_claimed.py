"""Jobs that a worker has claimed and not begun are shown as claimed, and are not among the runs of now."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.model import ClaimedJob, Filter, Job, Status
from jobdeck.core.queue import leases, operator
from jobdeck.core.read import jobs, reports
from jobdeck.core.read.pages import flows, overview
from jobdeck.core.read.report_types import Counts
from jobdeck.core.read.sentences import status_word
from jobdeck.core.read.verdict.health import health
from tests.core.cli.support import Jobdeck
from tests.support.health import announce
from tests.support.queue import ACTOR, LEASE, WORKER, Connection


@pytest.fixture
def held(conn: Connection) -> list[ClaimedJob]:
    """Three jobs of one claim, of which the second one's run has begun, and one that is pending."""
    announce(conn)
    for _ in range(3):
        conn.add()
    found = conn.claim(free=1)
    conn.advance(timedelta(seconds=5))
    begin(conn, found[1])
    conn.add()
    return found


def begin(conn: Connection, job: ClaimedJob) -> None:
    leases.heartbeat(conn, WORKER, [(job.id, job.run_token, None)], LEASE, {job.run_token: conn.now().timestamp()})


def words(found: list[Job]) -> dict[UUID, str]:
    return {job.id: status_word(job) for job in found}


def test_a_list_says_claimed_until_the_run_begins(conn: Connection, held: list[ClaimedJob]) -> None:
    first, second, third = (job.id for job in held)
    for wanted in (Filter(), Filter(status=Status.RUNNING)):
        shown = words(list(jobs.page(wanted).run(conn).jobs))
        assert (shown[first], shown[second], shown[third]) == ("claimed", "running", "claimed")
    begin(conn, held[0])
    detail = jobs.detail(first).run(conn)
    assert detail is not None
    assert status_word(detail.job) == "running"


def test_the_pages_of_running_jobs_have_each_claimed_one_once(conn: Connection, held: list[ClaimedJob]) -> None:
    found: list[UUID] = []
    after = None
    for _ in range(3):
        page = jobs.page(Filter(status=Status.RUNNING), limit=1, after=after).run(conn)
        found += [job.id for job in page.jobs]
        after = page.next
    # By their claims, which were before the begin of the second one.
    assert found == [held[0].id, held[2].id, held[1].id]
    assert after is None


def test_counts_have_the_claimed_ones_apart(conn: Connection, held: list[ClaimedJob]) -> None:
    assert jobs.counts().run(conn) == Counts(pending=1, running=3, claimed=2)
    assert jobs.counts().run(conn).begun == 1


@pytest.mark.usefixtures("held")
def test_a_type_counts_them_as_pending_and_their_places_as_taken(conn: Connection) -> None:
    operator.set_type(conn, "alpha", changes={"max_running": 3}, actor=ACTOR, reason=None)
    (found,) = overview.types().run(conn).types
    assert (found.line.pending, found.line.running, found.line.claimed) == (3, 1, 2)
    assert found.line.is_full


def test_the_report_of_workers_has_only_jobs_that_run(conn: Connection, held: list[ClaimedJob]) -> None:
    assert [job.id for job in reports.worker_report().run(conn).running] == [held[1].id]


def test_a_claimed_job_whose_worker_has_died_is_among_the_stuck_ones(conn: Connection, held: list[ClaimedJob]) -> None:
    conn.advance(timedelta(seconds=LEASE + 1))
    assert {job.id for job in reports.worker_report().run(conn).running} == {job.id for job in held}


@pytest.mark.usefixtures("held")
def test_health_takes_no_claimed_job_for_a_long_run(conn: Connection) -> None:
    conn.advance(timedelta(seconds=45))
    found = health(timeouts={"alpha": 60.0}).run(conn)
    assert [one.evidence for one in found.findings if one.signal == "long runs"] == []
    with conn.transaction():
        conn.execute("UPDATE job_queue SET started_at = clock_timestamp() - interval '55 s' WHERE status = 'running'")
        (finding,) = [one for one in health(timeouts={"alpha": 60.0}).run(conn).findings if one.signal == "long runs"]
        assert finding.evidence.startswith("3 runs have used more than 80 %")


@pytest.mark.slow
def test_commands_say_claimed(jobdeck: Jobdeck, conn: Connection, held: list[ClaimedJob]) -> None:
    claimed, running = held[0].id, held[1].id
    assert "2 claimed" in jobdeck("status").out
    assert "1 running" in jobdeck("status").out
    listed = {line.split()[0]: line for line in jobdeck("jobs").out.splitlines() if line.strip()}
    assert " claimed " in listed[str(claimed)]
    assert " running " in listed[str(running)]
    assert "claimed" in jobdeck("job", str(claimed)).out
    assert "A worker has claimed the job; its run has not begun." in jobdeck("why", str(claimed)).out
    assert "The job is running." in jobdeck("why", str(running)).out
    row = jobdeck("job", str(claimed), "--json").data
    assert (row["status"], row["started_at"], conn.job_row(claimed)["started_at"]) == ("running", None, None)


def test_a_flow_says_claimed_of_its_member(conn: Connection) -> None:
    conn.execute("SELECT * FROM job_flow_create('f', %s, %s)", ('[{"name": "m", "task_type": "alpha"}]', ACTOR))
    (job,) = conn.claim(free=0)
    (line,) = flows.newest(1).run(conn)
    assert (line.counts, line.state, line.ended) == ("1 claimed", "running", 0)
    begin(conn, job)
    assert [one.counts for one in flows.newest(1).run(conn)] == ["1 running"]
