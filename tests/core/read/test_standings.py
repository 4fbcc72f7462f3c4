"""How jobs stand, and the order of all jobs: those first that need somebody."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Filter, Job, Status
from jobdeck.core.queue import bulk, operator
from jobdeck.core.queue.operators.holds import hold
from jobdeck.core.read import job_lists
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.filters import REASONS, parse_filter
from jobdeck.core.read.report_types import Standing
from jobdeck.core.read.standings import full_types
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection

TYPES = ("alpha", "beta", "full", "held", "gamma")


def standings(conn: Connection, wanted: Filter | None = None) -> dict[UUID, Standing]:
    """How the jobs on a page of the filter stand; without one, those of the list of all jobs."""
    query = read_jobs.needy() if wanted is None else read_jobs.page(wanted)
    return dict(query.run(conn).standings)


def listed(conn: Connection, limit: int = 200) -> list[UUID]:
    """The ids of all jobs in the order of their needs, page by page."""
    found: list[UUID] = []
    after = None
    while True:
        page = read_jobs.needy(limit=limit, after=after).run(conn)
        found += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            return found


def test_a_job_of_a_type_that_the_calls_of_a_scheduler_run_is_not_said_to_be_unable_to_run(conn: Connection) -> None:
    announce(conn, types=TYPES)
    job, ran = conn.add("cron"), conn.add("cron")
    assert standings(conn) == {job.id: Standing.CANNOT_RUN, ran.id: Standing.CANNOT_RUN}
    conn.finish_one(conn.claim(["cron"], limit=1)[0])
    assert list(standings(conn).values()) == [Standing.PENDING]


def test_a_pending_job_says_why_it_does_not_run(conn: Connection) -> None:
    announce(conn, types=TYPES)
    start = conn.now()
    failing = conn.add("gamma")
    conn.finish_one(conn.claim_one(["gamma"]), "failed", error="It broke.", retry_base=600.0)
    later = conn.add("alpha", run_at=start + timedelta(hours=1))
    due = conn.add("beta")
    late = conn.add("alpha", run_at=start - timedelta(minutes=5))
    after = conn.add("alpha", blocked_by=later.id)
    paused = conn.add("held")
    operator.pause(conn, reason="Twilio is down", actor=ACTOR, task_type="held")
    nobody = conn.add("unknown")
    alone = conn.add("alpha", recurrence_interval_minutes=60, run_at=start + timedelta(hours=1))
    operator.pause_series(conn, alone.id, actor=ACTOR)

    for found in (standings(conn), standings(conn, Filter(status=Status.PENDING))):
        assert found == {
            later.id: Standing.PENDING,
            due.id: Standing.PENDING,
            late.id: Standing.OVERDUE,
            after.id: Standing.WAITING,
            paused.id: Standing.PAUSED,
            nobody.id: Standing.CANNOT_RUN,
            alone.id: Standing.PAUSED,
            failing.id: Standing.RETRYING,
        }


def test_a_job_behind_another_one_with_its_key_waits_only_once_it_is_due_and_its_type_is_not_paused(
    conn: Connection,
) -> None:
    announce(conn, types=TYPES)
    start = conn.now()
    first, behind = conn.add("alpha", concurrency_key="k"), conn.add("alpha", concurrency_key="k")
    later = conn.add("alpha", concurrency_key="k", run_at=start + timedelta(hours=1))
    paused = conn.add("held", concurrency_key="k")
    operator.pause(conn, reason="Twilio is down", actor=ACTOR, task_type="held")
    assert standings(conn) == {
        first.id: Standing.PENDING,
        behind.id: Standing.WAITING,
        later.id: Standing.PENDING,
        paused.id: Standing.PAUSED,
    }


def test_jobs_behind_a_limit_say_so_and_how_many_places_there_are(conn: Connection) -> None:
    announce(conn, types=TYPES)
    operator.set_type(conn, "full", changes={"max_running": 1}, actor=ACTOR, reason=None)
    first, second = conn.add("full"), conn.add("full")
    conn.claim_one(["full"])
    assert standings(conn) == {first.id: Standing.RUNNING, second.id: Standing.AT_LIMIT}
    (full,) = full_types().run(conn)
    assert (full.task_type, full.words) == ("full", "1 of 1 places taken")


def test_while_processing_is_off_due_jobs_are_paused_and_later_ones_pending(conn: Connection) -> None:
    due, later = conn.add(), conn.add(run_at=conn.now() + timedelta(hours=1))
    operator.pause(conn, reason=None, actor=ACTOR)
    assert standings(conn) == {due.id: Standing.PAUSED, later.id: Standing.PENDING}


def test_without_a_live_worker_a_job_of_any_type_may_still_be_claimed_by_a_scheduled_call(conn: Connection) -> None:
    assert standings(conn, Filter(task_type="alpha")) == {}
    job = conn.add("unknown")
    assert standings(conn) == {job.id: Standing.PENDING}


def test_a_type_that_is_set_aside_is_nobodys_worry(conn: Connection) -> None:
    announce(conn, types=TYPES)
    job = conn.add("other", run_at=conn.now() - timedelta(hours=1))
    operator.set_type(conn, "other", changes={"set_aside": True}, actor=ACTOR, reason="another runner has it")
    assert standings(conn) == {job.id: Standing.PENDING}


def fail(conn: Connection) -> Job:
    """A job that has just failed permanently."""
    job = conn.add("beta")
    conn.finish_one(conn.claim_one(["beta"]), "failed", error="It broke.", permanent=True)
    return job


def every_need(conn: Connection) -> list[UUID]:
    """One job of each need, the neediest first; added in another order."""
    announce(conn, types=TYPES)
    start = conn.now()
    cancelled = conn.add("alpha")
    operator.cancel(conn, [cancelled.id], actor=ACTOR)
    later = conn.add("alpha", run_at=start + timedelta(hours=2))
    paused_later = conn.add("held", run_at=start + timedelta(hours=1))
    operator.pause(conn, reason=None, actor=ACTOR, task_type="held")
    waiting = conn.add("alpha", blocked_by=later.id)
    running = conn.add("alpha")
    conn.claim_one(["alpha"])
    retrying = conn.add("gamma")
    conn.finish_one(conn.claim_one(["gamma"]), "failed", error="It broke.", retry_base=600.0)
    operator.set_type(conn, "full", changes={"max_running": 1}, actor=ACTOR, reason=None)
    holder = conn.add("full")
    conn.claim_one(["full"])
    limited = conn.add("full")
    overdue = conn.add("alpha", run_at=start - timedelta(minutes=5))
    paused = conn.add("held", run_at=start - timedelta(minutes=4))
    nobody = conn.add("unknown")
    first_failed, last_failed = (fail(conn) for _ in range(2))
    ordered = (
        last_failed, first_failed, nobody, overdue, paused, retrying, running, holder, limited, waiting, paused_later,
        later, cancelled,
    )  # fmt: skip
    return [job.id for job in ordered]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 3, 200])
def test_all_jobs_are_listed_by_their_need_page_by_page(conn: Connection, limit: int) -> None:
    expected = every_need(conn)
    assert listed(conn, limit) == expected
    assert [job.id for job in read_jobs.snapshot(Filter()).run(conn).page.jobs] == expected


def every_reason(conn: Connection) -> dict[UUID, Standing]:
    """How the pending jobs of a queue stand in which every word of the filter fits some."""
    every_need(conn)
    hold(conn, task_type="gamma", key="coachId", value=7, actor=ACTOR)
    kept = conn.add("gamma", payload={"coachId": 7})
    later = conn.add("gamma", payload={"coachId": 7}, run_at=conn.now() + timedelta(hours=3))
    behind = [conn.add("alpha", concurrency_key="k") for _ in range(2)]
    alone = conn.add("alpha", recurrence_interval_minutes=60)
    operator.pause_series(conn, alone.id, actor=ACTOR)
    found = standings(conn, Filter(status=Status.PENDING))
    assert {kept.id, later.id, alone.id, *(job.id for job in behind)} <= set(found)
    assert set(REASONS.values()) < set(found.values())
    return found


def pages(conn: Connection, wanted: Filter, limit: int) -> list[UUID]:
    """The ids of the jobs of a filter, page by page."""
    found: list[UUID] = []
    after = None
    while True:
        page = read_jobs.page(wanted, limit=limit, after=after).run(conn)
        found += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            return found


def test_the_filter_knows_every_word_that_lists_say_in_place_of_pending() -> None:
    assert {*map(Standing, REASONS.values())} == {*Standing} - {*map(Standing, Status)} - {Standing.CLAIMED}


@pytest.mark.parametrize("word", REASONS)
def test_a_filter_by_a_reason_finds_the_pending_jobs_that_wait_for_it_and_no_others(
    word: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [job for job, standing in every_reason(conn).items() if standing == REASONS[word]]
    wanted = parse_filter(f"status:{word}")
    assert expected
    assert pages(conn, wanted, 100) == expected
    assert set(standings(conn, wanted).values()) == {REASONS[word]}
    for most in (1, 2, 5):
        monkeypatch.setattr(job_lists, "LOOKED_AT", most)
        assert pages(conn, wanted, 1) == expected


def test_jobs_that_are_tried_again_are_found_on_the_first_page_behind_any_number_of_others(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_lists, "LOOKED_AT", 5)
    monkeypatch.setattr(job_lists, "JOBS_LOOKED_AT", 5)
    failing = {conn.add("gamma").id for _ in range(2)}
    for job in conn.claim(["gamma"], limit=2):
        conn.finish_one(job, "failed", error="It broke.", retry_base=600.0)
    conn.execute("INSERT INTO job_queue (task_type) SELECT 'gamma' FROM generate_series(1, 50)")
    found = read_jobs.page(parse_filter("status:retrying"), limit=10).run(conn)
    assert ({job.id for job in found.jobs}, found.next) == (failing, None)


def test_while_processing_is_off_a_filter_finds_due_jobs_of_every_type_as_paused(conn: Connection) -> None:
    due, _ = conn.add(), conn.add(run_at=conn.now() + timedelta(hours=1))
    operator.pause(conn, reason=None, actor=ACTOR)
    assert pages(conn, parse_filter("status:paused"), 100) == [due.id]


def test_a_reason_is_found_among_the_jobs_of_a_type_and_with_other_words(conn: Connection) -> None:
    every_reason(conn)
    gone = conn.add("alpha", payload={"word": "red"}, run_at=conn.now() - timedelta(minutes=9))
    assert pages(conn, parse_filter("status:overdue red"), 100) == [gone.id]
    assert pages(conn, parse_filter("status:overdue type:gamma"), 100) == []
    assert gone.id in pages(conn, parse_filter("status:overdue type:alp"), 100)


@pytest.mark.parametrize("word", REASONS)
def test_an_action_on_all_jobs_of_a_reason_chooses_exactly_these(word: str, conn: Connection) -> None:
    expected = {job for job, standing in every_reason(conn).items() if standing == REASONS[word]}
    choice = bulk.choose(conn, parse_filter(f"status:{word}"), actor=ACTOR)
    assert choice is not None
    assert (choice.bulk.words, choice.bulk.total) == (f"status:{word}", len(expected))
    assert {job.id for job in choice.first} <= expected


def test_no_job_is_chosen_where_none_waits_for_the_reason(conn: Connection) -> None:
    conn.add(run_at=conn.now() + timedelta(hours=1))
    assert bulk.choose(conn, parse_filter("status:overdue"), actor=ACTOR) is None


def test_another_order_of_all_jobs_is_what_it_was(conn: Connection) -> None:
    expected = every_need(conn)
    found = read_jobs.snapshot(Filter(), sort="created").run(conn).page
    assert [job.id for job in found.jobs] == sorted(expected, reverse=True)
    assert found.standings == standings(conn)


def test_the_list_of_all_jobs_has_the_first_of_each_status_alone(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_jobs, "EACH", 2)
    expected = every_need(conn)
    for _ in range(3):
        fail(conn)
    found = listed(conn)
    assert len([one for one in found if one not in expected]) == 2
    assert not set(expected[:2]) & set(found)


def test_what_is_no_cursor_is_refused_in_a_sentence(conn: Connection) -> None:
    conn.add()
    with pytest.raises(UsageError, match="not a cursor"):
        read_jobs.needy(after="nonsense").run(conn)
