"""The read side: lists in every order, cursors, filters, counts, the snapshot, detail, and why a job waits."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.errors import JobNotFound, UsageError
from jobdeck.core.model import Filter, Job, NewJob, RunOutcome, Status
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.filters import SORTS
from jobdeck.core.read.report_types import Counts
from tests.support.health import announce
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, WORKER, Connection, report

TABS = (None, *Status)
DIRECTIONS = pytest.mark.parametrize("descending", [True, False], ids=["falling", "rising"])


def all_pages(conn: Connection, wanted: Filter, limit: int, **order: Any) -> list[Job]:
    """Every job of a list, page by page."""
    found: list[Job] = []
    after = None
    for _ in range(100):
        page = read_jobs.page(wanted, limit=limit, after=after, **order).run(conn)
        assert len(page.jobs) <= limit
        found += page.jobs
        after = page.next
        if after is None:
            return found
        assert len(page.jobs) == limit
    raise AssertionError("The pages do not end.")


def ids(conn: Connection, wanted: Filter, **order: Any) -> list[UUID]:
    return [job.id for job in read_jobs.page(wanted, **order).run(conn).jobs]


def created(jobs: Iterable[Job]) -> list[datetime]:
    """When the jobs were created, of which that is known."""
    return [job.created_at for job in jobs if job.created_at is not None]


def end_some(conn: Connection) -> None:
    """Seven jobs that failed, were cancelled, or succeeded and left, one of each with a key; four ended series."""
    for outcome in ("failed", "cancelled", "succeeded"):
        for number in range(7):
            conn.add(f"{outcome}-{number % 2}", concurrency_key="k" if number == 3 else None)
        for claimed in conn.claim([f"{outcome}-0", f"{outcome}-1"], limit=20):
            conn.finish_one(claimed, outcome, permanent=True, error="It broke.")
    at = conn.now() - timedelta(minutes=1)
    for _ in range(4):
        conn.add("series", run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(minutes=5))
    for claimed in conn.claim(["series"]):
        conn.finish_one(claimed)


def fill(conn: Connection) -> None:
    """Seven jobs or more in each status, of every kind that a list treats by itself, with ties in every order."""
    end_some(conn)
    for number in range(7):
        conn.add(f"running-{number % 3}")
        conn.claim([f"running-{number % 3}"], worker="worker-2")
    start = conn.now().replace(microsecond=0) - timedelta(hours=1)
    minutes = [start + timedelta(minutes=minute) for minute in range(120)]
    for number in range(5):
        for kind in ("alpha", "beta"):
            conn.add(kind, priority=number % 2, run_at=minutes[number % 3 * 30])
        conn.add("keyed", concurrency_key="k", run_at=minutes[10 * number])
    blocker = conn.add("alpha", run_at=minutes[90])
    for number in range(4):
        conn.add("waiting", blocked_by=blocker.id, run_at=minutes[25 * number])
    conn.execute("UPDATE job_queue SET updated_at = date_trunc('second', updated_at) WHERE status <> 'running'")


@pytest.fixture(scope="module")
def full_database(postgres: PostgresServer, templates: Callable[[bool], str]) -> Iterator[str]:
    name = postgres.create_database(template=templates(False))
    with postgres.connect(name) as conn:
        fill(conn)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def full(postgres: PostgresServer, full_database: str) -> Iterator[Connection]:
    """A connection to a full database, which the tests share and cannot write to."""
    with postgres.connect(full_database) as conn:
        conn.execute("SET default_transaction_read_only = on")
        yield conn


KEYS: dict[str, Callable[[Job], Any]] = {
    "created": lambda job: job.id,
    "run_at": lambda job: job.run_at,
    "task": lambda job: job.task_type,
    "status": lambda job: job.status,
    "attempts": lambda job: job.attempts,
    "updated": lambda job: job.updated_at,
}


class TestOrder:
    @pytest.mark.slow
    @DIRECTIONS
    @pytest.mark.parametrize("sort", SORTS)
    def test_pages_of_every_tab_leave_none_out_and_repeat_none(
        self, full: Connection, sort: str, descending: bool
    ) -> None:
        for tab in TABS:
            stored = """
                SELECT id FROM job_queue WHERE %(tab)s::text IS NULL OR status = %(tab)s
                UNION SELECT job_id FROM job_runs WHERE removed AND %(tab)s = 'succeeded'
            """
            wanted = {job_id for (job_id,) in full.execute(stored, {"tab": tab}).fetchall()}
            assert len(wanted) >= 7
            whole = read_jobs.page(Filter(status=tab), sort=sort, descending=descending).run(full).jobs
            for limit in (3, 7):
                paged = all_pages(full, Filter(status=tab), limit, sort=sort, descending=descending)
                assert [job.id for job in paged] == [job.id for job in whole]
            assert len(whole) == len(wanted)
            assert {job.id for job in whole} == wanted
            if sort in KEYS:
                keys = [KEYS[sort](job) for job in whole]
                assert keys == sorted(keys, reverse=descending)

    def test_the_natural_order_of_a_tab_is_what_one_looks_for_there(self, full: Connection) -> None:
        everything = read_jobs.page(Filter()).run(full).jobs
        assert created(everything) == sorted(created(everything), reverse=True)
        pending = read_jobs.page(Filter(status=Status.PENDING)).run(full).jobs
        assert [job.run_at for job in pending] == sorted(job.run_at for job in pending)
        running = read_jobs.page(Filter(status=Status.RUNNING)).run(full).jobs
        starts = [job.started_at for job in running if job.started_at]
        assert len(starts) == 7
        assert starts == sorted(starts)
        for tab in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED):
            ends = [job.completed_at for job in read_jobs.page(Filter(status=tab)).run(full).jobs if job.completed_at]
            assert len(ends) >= 7
            assert ends == sorted(ends, reverse=True)

    def test_the_natural_order_turned_round_is_its_reverse(self, full: Connection) -> None:
        for tab in TABS:
            assert ids(full, Filter(status=tab), descending=False) == ids(full, Filter(status=tab))[::-1]

    @pytest.mark.slow
    @pytest.mark.parametrize("held_by", ["a key", "a blocker"])
    def test_long_lines_of_waiting_jobs_are_paged_through_whole(self, conn: Connection, held_by: str) -> None:
        blocker = conn.add("beta", run_at=conn.now() - timedelta(days=2))
        for number in range(60):
            fields: dict[str, Any] = {"concurrency_key": f"k{number % 4}"}
            if held_by == "a blocker":
                fields = {"blocked_by": blocker.id}
            conn.add(run_at=conn.now() - timedelta(minutes=number * 37 % 60), **fields)
        paged = all_pages(conn, Filter(status=Status.PENDING), 10)
        assert len({job.id for job in paged}) == 61
        assert [job.run_at for job in paged] == sorted(job.run_at for job in paged)

    def test_a_long_run_that_ended_last_is_listed_first(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha") for _ in range(30)], actor=ACTOR)
        claimed = conn.claim(limit=30)
        conn.finish(
            *[report(job, finished=job.claimed_at.timestamp() + 100 - place) for place, job in enumerate(claimed)],
        )
        expected = [job.id for job in claimed]
        assert ids(conn, Filter(status=Status.SUCCEEDED), limit=5) == expected[:5]
        assert [job.id for job in all_pages(conn, Filter(status=Status.SUCCEEDED), 5)] == expected

    def test_jobs_that_ended_without_a_time_are_listed_by_their_last_change(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (task_type, status, updated_at)
            SELECT 'alpha', status, now() - n * interval '1 hour'
            FROM generate_series(1, 9) AS n, unnest(ARRAY['succeeded', 'failed', 'cancelled']) AS status
            """
        )
        conn.add()
        conn.run_once()
        for tab in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED):
            paged = all_pages(conn, Filter(status=tab), 4)
            assert [job.updated_at for job in paged] == sorted((job.updated_at for job in paged), reverse=True)
            assert len(paged) == (10 if tab is Status.SUCCEEDED else 9)

    def test_jobs_with_ids_of_the_original_are_ordered_by_their_creation_when_asked(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (id, task_type, run_at, created_at)
            SELECT gen_random_uuid(), 'alpha', now() + interval '1 day', now() - n * interval '1 hour'
            FROM generate_series(1, 30) AS n
            """
        )
        for _ in range(3):
            conn.add()
        for descending in (True, False):
            listed = read_jobs.page(Filter(), sort="created", descending=descending).run(conn).jobs
            assert created(listed) == sorted(created(listed), reverse=descending)
            assert len(listed) == 33

    def test_a_list_goes_on_where_it_was_though_jobs_come_and_go(self, conn: Connection) -> None:
        jobs = [conn.add() for _ in range(12)]
        first = read_jobs.page(Filter(), limit=4).run(conn)
        conn.add()
        operator.delete(conn, [first.jobs[-1].id], actor=ACTOR)
        second = read_jobs.page(Filter(), limit=4, after=first.next).run(conn)
        assert [job.id for job in second.jobs] == [job.id for job in jobs[::-1][4:8]]

    def test_an_unknown_order_is_refused(self, conn: Connection) -> None:
        with pytest.raises(UsageError, match="Unknown order size"):
            read_jobs.page(Filter(), sort="size").run(conn)

    @pytest.mark.parametrize("sort", ["natural", "updated"])
    @pytest.mark.parametrize("cursor", ["x", "%%%", "bm9wZQ", "e30", "WzFd", "ünïcode"])
    def test_what_is_no_cursor_is_refused(self, conn: Connection, cursor: str, sort: str) -> None:
        with pytest.raises(UsageError, match="not a cursor"):
            read_jobs.page(Filter(), sort=sort, after=cursor).run(conn)

    @pytest.mark.parametrize(
        ("sort", "forged"),
        [
            ("natural", {"key": "soon", "id": str(uuid.UUID(int=0)), "skip": 0}),
            ("natural", {"key": "2026-01-01", "id": "1; DROP TABLE job_queue", "skip": 0}),
            ("updated", {"key": "2026-01-01", "id": str(uuid.UUID(int=0)), "skip": "x"}),
            ("updated", {"key": "2026-01-01", "id": str(uuid.UUID(int=0)), "skip": -1}),
            ("updated", {"key": "2026-01-01", "id": 5, "skip": 0}),
        ],
    )
    def test_a_cursor_that_was_made_up_is_refused(self, conn: Connection, sort: str, forged: dict[str, Any]) -> None:
        cursor = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode()
        with pytest.raises(UsageError, match="not a cursor"):
            read_jobs.page(Filter(status=Status.PENDING), sort=sort, after=cursor).run(conn)

    @pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "²", "9" * 40])
    def test_what_is_no_cursor_of_runs_is_refused(self, conn: Connection, cursor: str) -> None:
        with pytest.raises(UsageError, match="not a cursor"):
            history.runs(after=cursor).run(conn)


class TestFilters:
    def test_a_task_type_is_matched_by_any_part_of_its_name(self, conn: Connection) -> None:
        sync, sweep = conn.add("game_platform_sync"), conn.add("game_platform_totals_sweep")
        assert ids(conn, Filter(task_type="SYNC")) == [sync.id]
        assert ids(conn, Filter(task_type="game_platform")) == [sweep.id, sync.id]

    def test_a_search_looks_at_id_type_error_and_payload_as_plain_text(self, conn: Connection) -> None:
        job = conn.add(payload={"campaignId": "100%_off\\"})
        failed = conn.add("beta")
        conn.run_once(["beta"], "failed", permanent=True, error="Quota of 5 reached")
        assert ids(conn, Filter(search=str(job.id)[:18])) == [job.id]
        assert ids(conn, Filter(search="CAMPAIGNID")) == [job.id]
        assert ids(conn, Filter(search="0%_o")) == [job.id]
        assert ids(conn, Filter(search="%")) == [job.id]
        assert ids(conn, Filter(search="quota")) == [failed.id]
        assert ids(conn, Filter(search="bet")) == [failed.id]
        assert ids(conn, Filter(search="'; DROP TABLE job_queue; --")) == []

    def test_an_error_is_matched_by_itself(self, conn: Connection) -> None:
        failed = conn.add()
        conn.run_once(outcome="failed", permanent=True, error="Quota of 5 reached")
        conn.add("quota")
        assert ids(conn, Filter(error="QUOTA")) == [failed.id]

    def test_a_coach_is_matched_by_the_payload(self, conn: Connection) -> None:
        coach = str(uuid.uuid4())
        mine = conn.add(payload={"coachId": coach})
        conn.add(payload={"coachId": None})
        conn.add(payload={"other": coach})
        for wanted in (coach, coach[:8], coach[:8].upper()):
            assert ids(conn, Filter(payload=("coachId", wanted))) == [mine.id]
        assert ids(conn, Filter(payload=("coachId", coach[1:]))) == []

    def test_attempts_age_and_outcome(self, conn: Connection) -> None:
        old = conn.add()
        conn.run_once(outcome="failed", retry_after=0)
        conn.run_once(outcome="failed", retry_after=3600.0)
        conn.advance(timedelta(hours=2))
        young = conn.add()
        assert ids(conn, Filter(attempts_at_least=2)) == [old.id]
        assert ids(conn, Filter(attempts_at_least=3)) == []
        assert ids(conn, Filter(older_than=timedelta(hours=1))) == [old.id]
        assert ids(conn, Filter(older_than=timedelta(0))) == [young.id, old.id]
        assert ids(conn, Filter(outcome=RunOutcome.RETRIED)) == [old.id]

    @pytest.mark.slow
    def test_filters_are_joined_in_every_tab_and_paged(self, full: Connection) -> None:
        for tab in TABS:
            whole = read_jobs.page(Filter(status=tab)).run(full).jobs
            kinds = {job.task_type for job in whole}
            for kind in kinds:
                wanted = Filter(status=tab, task_type=kind, search=kind[:3], attempts_at_least=0)
                paged = all_pages(full, wanted, 2)
                assert [job.id for job in paged] == [job.id for job in whole if kind in job.task_type]

    def test_a_removed_success_is_listed_as_the_job_it_was(self, conn: Connection) -> None:
        job = conn.add(payload={"n": 1}, priority=5)
        conn.run_once(output={"sent": 3})
        (listed,) = read_jobs.page(Filter(status=Status.SUCCEEDED)).run(conn).jobs
        assert (listed.id, listed.task_type, listed.payload, listed.status) == (
            job.id, "alpha", {"n": 1}, Status.SUCCEEDED,
        )  # fmt: skip
        assert (listed.removed, listed.output, listed.last_outcome, listed.attempts) == (
            True, {"sent": 3}, RunOutcome.SUCCEEDED, 1,
        )  # fmt: skip
        assert listed.completed_at is not None
        assert read_jobs.job(job.id).run(conn) == listed
        assert ids(conn, Filter()) == []

    def test_of_a_removed_success_nothing_is_made_up(self, conn: Connection) -> None:
        job = conn.add(max_attempts=5, priority=5, run_at=conn.now() - timedelta(hours=1))
        conn.run_once()
        (listed,) = read_jobs.page(Filter(status=Status.SUCCEEDED)).run(conn).jobs
        assert (listed.attempts, listed.max_attempts, listed.priority) == (1, None, None)
        assert listed.created_by == job.created_by
        assert listed.created_at is not None
        assert job.created_at is not None
        assert abs(listed.created_at - job.created_at) < timedelta(seconds=1)

    @pytest.mark.parametrize(
        "job_id",
        [
            UUID("0d2f5a2e-5f6a-4a6b-9c3d-2f6a1b7c8d9e"),  # of chance alone, as the original makes them
            UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"),  # of a time that is yet to come
        ],
    )
    def test_when_a_removed_success_was_created_is_unknown_where_its_id_does_not_tell(
        self, conn: Connection, job_id: UUID
    ) -> None:
        conn.execute("INSERT INTO job_queue (id, task_type) VALUES (%s, 'alpha')", (job_id,))
        conn.run_once()
        conn.add()
        conn.run_once()
        for sort in SORTS:
            page = read_jobs.page(Filter(status=Status.SUCCEEDED), sort=sort).run(conn).jobs
            assert {job.created_at is None for job in page if job.id == job_id} == {True}
        assert ids(conn, Filter(status=Status.SUCCEEDED), sort="created")[-1] == job_id

    def test_a_removed_success_is_at_least_as_old_as_its_run(self, conn: Connection) -> None:
        conn.execute("INSERT INTO job_queue (id, task_type) VALUES (gen_random_uuid(), 'alpha')")
        conn.run_once()
        old = Filter(status=Status.SUCCEEDED, older_than=timedelta(minutes=30))
        assert ids(conn, old) == []
        conn.advance(timedelta(hours=1))
        assert len(ids(conn, old)) == 1

    def test_ids_are_found_for_an_action_on_all_and_removed_ones_are_not(self, full: Connection) -> None:
        for tab in TABS:
            wanted = [job.id for job in read_jobs.page(Filter(status=tab)).run(full).jobs if not job.removed]
            assert read_jobs.find_ids(full, Filter(status=tab)) == wanted
        assert len(read_jobs.find_ids(full, Filter(), limit=5)) == 5


class TestCounts:
    def test_each_status_is_counted_exactly(self, full: Connection) -> None:
        counted = read_jobs.counts().run(full)
        stored = {
            row["status"]: row["n"] for row in full.rows("SELECT status, count(*) AS n FROM job_queue GROUP BY 1")
        }
        assert {status: getattr(counted, status) for status in stored} == stored
        assert counted.removed == full.value("SELECT count(*) FROM job_runs WHERE removed") == 7
        for tab in TABS:
            assert counted.of(tab) == len(read_jobs.page(Filter(status=tab)).run(full).jobs)

    def test_nothing_is_zero(self, conn: Connection) -> None:
        assert read_jobs.counts().run(conn) == Counts()

    @pytest.mark.slow
    def test_above_ten_thousand_says_that_there_are_more(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (task_type, status)
            SELECT 'alpha', CASE WHEN n <= 10000 THEN 'failed' ELSE 'pending' END FROM generate_series(1, 22000) AS n
            """
        )
        counted = read_jobs.counts().run(conn)
        assert counted.failed == Counts.LIMIT
        assert counted.pending > Counts.LIMIT
        page = read_jobs.page(Filter(status=Status.PENDING), limit=100).run(conn)
        assert len(page.jobs) == 100
        page = read_jobs.page(Filter(status=Status.PENDING), sort="created", limit=100).run(conn)
        assert len(page.jobs) == 100

    @pytest.mark.slow
    def test_what_falls_below_ten_thousand_is_exact_at_once(self, conn: Connection) -> None:
        conn.execute(
            "INSERT INTO job_queue (task_type, status) SELECT 'alpha', 'failed' FROM generate_series(1, 40000)"
        )
        assert read_jobs.counts().run(conn).failed > Counts.LIMIT
        conn.execute("DELETE FROM job_queue WHERE id IN (SELECT id FROM job_queue LIMIT 30001)")
        assert read_jobs.counts().run(conn).failed == Counts.LIMIT - 1

    @pytest.mark.slow
    @pytest.mark.parametrize("most", [1, 63, 1000, 3999, 4000, 4001, 100_000])
    def test_numbers_are_counted_up_to_a_limit(self, most: int, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (task_type, status)
            SELECT 'alpha', status FROM unnest(array['pending', 'succeeded', 'failed', 'cancelled']) AS status,
                generate_series(1, 4000)
            """
        )
        conn.execute(
            """
            INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at,
                outcome, removed)
            SELECT n, gen_random_uuid(), 'alpha', '{}', 1, now(), now(), now(), 'succeeded', true
            FROM generate_series(1, 4000) AS n
            """
        )
        counted = conn.rows(
            "SELECT pending, succeeded, failed, cancelled, removed FROM job_queue_counts(%s)",
            most,
        )
        assert set(counted[0].values()) == {min(most, 4000)}


class TestOneJob:
    def test_a_job_is_read_whole(self, conn: Connection) -> None:
        at = conn.now()
        made = conn.add(
            payload={"n": 1}, run_at=at + timedelta(hours=1), priority=3, max_attempts=4, dedupe_key="d",
            concurrency_key="c", recurrence_interval_minutes=60, expires_at=at + timedelta(days=1),
        )  # fmt: skip
        job = read_jobs.job(made.id).run(conn)
        assert job == made
        stored = conn.job_row(made.id)
        for name in (
            "task_type", "payload", "status", "run_at", "attempts", "max_attempts", "created_at", "updated_at",
            "version", "priority", "expires_at", "dedupe_key", "concurrency_key", "anchor_at", "created_by",
        ):  # fmt: skip
            assert getattr(job, name) == stored[name], name

    def test_a_running_job_shows_its_worker_lease_and_progress(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        leases.heartbeat(conn, WORKER, [(claimed.id, claimed.run_token, {"done": 2})], 60)
        leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 2})
        job = read_jobs.job(claimed.id).run(conn)
        assert job is not None
        assert (job.status, job.locked_by, job.run_token, job.progress, job.checkpoint) == (
            Status.RUNNING, WORKER, claimed.run_token, {"done": 2}, {"at": 2},
        )  # fmt: skip
        assert job.started_at == claimed.claimed_at
        assert (job.next_run_at, job.overdue_seconds) == (None, None)

    def test_lateness_is_told_of_due_jobs_that_wait_for_nothing_but_a_worker(self, conn: Connection) -> None:
        late = conn.add(run_at=conn.now() - timedelta(seconds=90))
        later = conn.add(run_at=conn.now() + timedelta(seconds=90))
        waiting = conn.add(run_at=conn.now() - timedelta(seconds=90), blocked_by=later.id)
        told = {job.id: job.overdue_seconds for job in read_jobs.page(Filter()).run(conn).jobs}
        assert told[late.id] == pytest.approx(90, abs=30)
        assert (told[later.id], told[waiting.id]) == (None, None)

    def test_detail_joins_runs_reasons_and_audit(self, conn: Connection) -> None:
        job = conn.add()
        conn.run_once(outcome="failed", permanent=True)
        operator.retry(conn, [job.id], actor=ACTOR)
        detail = read_jobs.detail(job.id).run(conn)
        assert detail is not None
        assert detail.job.id == job.id
        assert [run.outcome for run in detail.runs] == [RunOutcome.FAILED]
        assert [entry.action for entry in detail.audit] == ["retry"]
        assert [clause.name for clause in detail.why]
        assert not detail.in_trash

    def test_detail_of_a_success_that_left_and_of_nothing(self, conn: Connection) -> None:
        job = conn.add()
        conn.run_once()
        detail = read_jobs.detail(job.id).run(conn)
        assert detail is not None
        assert (detail.job.removed, len(detail.runs), detail.why) == (True, 1, ())
        assert read_jobs.detail(uuid.uuid4()).run(conn) is None
        assert read_jobs.job(uuid.uuid4()).run(conn) is None

    def test_an_id_is_found_by_how_it_begins(self, conn: Connection) -> None:
        one, other = (
            uuid.UUID("aaaa1111-0000-4000-8000-000000000001"),
            uuid.UUID("aaaa2222-0000-4000-8000-000000000002"),
        )
        conn.execute("INSERT INTO job_queue (id, task_type) VALUES (%s, 'alpha'), (%s, 'alpha')", (one, other))
        assert read_jobs.resolve_id(conn, "aaaa1") == one
        assert read_jobs.resolve_id(conn, " AAAA2222-00 ") == other
        assert read_jobs.resolve_id(conn, str(one)) == one
        with pytest.raises(UsageError, match="Several job IDs") as told:
            read_jobs.resolve_id(conn, "aaaa")
        assert str(one) in str(told.value)
        assert str(other) in str(told.value)
        with pytest.raises(JobNotFound):
            read_jobs.resolve_id(conn, "bbbb")
        for text in ("", "aaa", "xyzw", "aaaa%", str(one) + "0"):
            with pytest.raises(UsageError, match="not a job ID"):
                read_jobs.resolve_id(conn, text)

    def test_the_id_of_a_success_that_left_is_found_too(self, conn: Connection) -> None:
        job = conn.add()
        conn.run_once()
        assert read_jobs.resolve_id(conn, str(job.id)[:23]) == job.id


class TestSnapshot:
    def test_it_is_one_moment_of_everything_and_changes_nothing(self, full: Connection) -> None:
        with full.changes_nothing():
            shown = read_jobs.snapshot(Filter(status=Status.FAILED), limit=3).run(full)
        assert len(shown.page.jobs) == 3
        assert shown.page.next is not None
        assert shown.counts == read_jobs.counts().run(full)
        assert shown.processing.enabled
        assert shown.workers == ()
        assert shown.health.findings
        assert abs(shown.at - full.now()) < timedelta(minutes=5)

    def test_an_empty_queue_has_one_too(self, conn: Connection) -> None:
        shown = read_jobs.snapshot(Filter()).run(conn)
        assert (shown.page.jobs, shown.page.next, shown.counts) == ((), None, Counts())

    def test_permissions_of_the_owner_are_all(self, conn: Connection) -> None:
        told = read_jobs.permissions().run(conn)
        assert (told.view, told.operate, told.work) == (True, True, True)
        assert told.role == conn.value("SELECT current_user::text")


class TestWhy:
    """For each clause: it alone is false, the job is not claimed, and the explanation says just that."""

    @staticmethod
    def claimable(conn: Connection, **fields: Any) -> UUID:
        announce(conn)
        return conn.add(**fields).id

    @staticmethod
    def false_clauses(conn: Connection, job_id: UUID) -> dict[str, str]:
        clauses = read_jobs.why(job_id).run(conn)
        assert [clause.name for clause in clauses] == [
            "status", "processing", "type not paused", "worker", "due", "expiry", "dependencies", "concurrency",
            *(["slot", "turn"] if all(clause.holds for clause in clauses) else []),
        ]  # fmt: skip
        assert all(
            clause.evidence.endswith(".") or clause.name in {"processing", "type not paused"} for clause in clauses
        )
        return {clause.name: clause.evidence for clause in clauses if not clause.holds}

    def held_by(self, conn: Connection, job_id: UUID, name: str, *words: str) -> None:
        """One clause alone holds the job back, and its evidence has these words."""
        ((found, evidence),) = self.false_clauses(conn, job_id).items()
        assert found == name
        assert [word for word in words if word not in evidence] == []

    def test_every_clause_holds_for_a_job_that_is_claimed(self, conn: Connection) -> None:
        job_id = self.claimable(conn, concurrency_key="k", expires_at=conn.now() + timedelta(hours=1))
        assert self.false_clauses(conn, job_id) == {}
        assert conn.claim_one().id == job_id

    @pytest.mark.parametrize("status", ["running", "succeeded", "failed", "cancelled"])
    def test_status(self, conn: Connection, status: str) -> None:
        job_id = self.claimable(conn)
        if status == "running":
            conn.claim_one()
        else:
            conn.execute("UPDATE job_queue SET status = %s WHERE id = %s", (status, job_id))
        self.held_by(conn, job_id, "status", status)
        assert conn.claim() == []

    def test_processing(self, conn: Connection) -> None:
        job_id = self.claimable(conn)
        operator.pause(conn, reason="vendor is down", actor=ACTOR)
        self.held_by(conn, job_id, "processing", "vendor is down", ACTOR)
        assert conn.claim() == []

    def test_processing_without_its_row(self, conn: Connection) -> None:
        job_id = self.claimable(conn)
        conn.execute("DELETE FROM job_queue_settings")
        self.held_by(conn, job_id, "processing", "missing")
        assert conn.claim() == []

    def test_processing_whose_pause_is_over(self, conn: Connection) -> None:
        job_id = self.claimable(conn)
        operator.pause(conn, reason=None, actor=ACTOR, resume_at=conn.now() + timedelta(seconds=30))
        conn.advance(timedelta(seconds=31))
        assert self.false_clauses(conn, job_id) == {}
        assert conn.claim_one().id == job_id

    def test_type_open(self, conn: Connection) -> None:
        job_id = self.claimable(conn)
        operator.pause(conn, reason="quota", actor=ACTOR, task_type="alpha")
        self.held_by(conn, job_id, "type not paused", "quota")
        assert conn.claim() == []

    def test_worker(self, conn: Connection) -> None:
        job_id = self.claimable(conn, task_type="beta")
        self.held_by(conn, job_id, "worker")
        assert conn.claim(["alpha"]) == []
        assert conn.claim_one(["beta"]).id == job_id

    def test_worker_that_is_silent(self, conn: Connection) -> None:
        job_id = self.claimable(conn)
        conn.advance(timedelta(minutes=3))
        self.held_by(conn, job_id, "worker", "No worker")

    def test_due(self, conn: Connection) -> None:
        job_id = self.claimable(conn, run_at=conn.now() + timedelta(minutes=5))
        self.held_by(conn, job_id, "due")
        assert conn.claim() == []

    def test_unexpired(self, conn: Connection) -> None:
        job_id = self.claimable(conn, expires_at=conn.now() + timedelta(seconds=10))
        conn.advance(timedelta(seconds=11))
        self.held_by(conn, job_id, "expiry")
        assert conn.claim() == []

    @pytest.mark.parametrize("key", [None, "k"])
    def test_unblocked(self, conn: Connection, key: str | None) -> None:
        blocker = conn.add("beta", concurrency_key=key)
        job_id = self.claimable(conn, blocked_by=blocker.id)
        self.held_by(conn, job_id, "dependencies", str(blocker.id), "pending")
        assert conn.claim() == []

    def test_key_free_while_another_runs(self, conn: Connection) -> None:
        holder = conn.add(concurrency_key="k")
        conn.claim_one()
        job_id = self.claimable(conn, concurrency_key="k")
        self.held_by(conn, job_id, "concurrency", str(holder.id))
        assert conn.claim() == []

    def test_key_free_of_a_producers_insert_while_another_runs(self, conn: Connection) -> None:
        conn.add(concurrency_key="k")
        conn.claim_one()
        self.claimable(conn)
        job_id = conn.value("INSERT INTO job_queue (task_type, concurrency_key) VALUES ('alpha', 'k') RETURNING id")
        self.held_by(conn, job_id, "concurrency")
        assert len(conn.claim()) == 1
        assert conn.job_row(job_id)["status"] == "pending"

    def test_key_free_behind_another_in_line(self, conn: Connection) -> None:
        first = conn.add(concurrency_key="k")
        job_id = self.claimable(conn, concurrency_key="k")
        self.held_by(conn, job_id, "concurrency", f"Job {first.id} with the same key goes first.")
        assert conn.claim_one().id != job_id

    def test_a_running_job_does_not_stand_in_its_own_way(self, conn: Connection) -> None:
        job_id = self.claimable(conn, concurrency_key="k")
        conn.claim_one()
        self.held_by(conn, job_id, "status")

    def test_a_job_that_ended_in_the_line_of_its_key_is_not_said_to_wait_there(self, conn: Connection) -> None:
        first, second = (conn.add(concurrency_key="one") for _ in range(2))
        operator.cancel(conn, [second.id], actor=ACTOR)
        operator.delete(conn, [first.id], actor=ACTOR)
        said = {clause.name: clause for clause in read_jobs.why(second.id).run(conn)}
        assert (said["status"].holds, said["concurrency"].holds) == (False, True)
        assert "goes first" not in said["concurrency"].evidence

    def test_a_job_that_is_gone_has_no_clauses(self, conn: Connection) -> None:
        assert read_jobs.why(uuid.uuid4()).run(conn) == ()
