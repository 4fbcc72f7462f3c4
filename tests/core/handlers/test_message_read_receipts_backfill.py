"""The backfill of read receipts: everything that is missing, once, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.errors import Cancelled
from jobdeck.core.handlers import message_read_receipts_backfill as backfill
from jobdeck.core.model import NewJob
from jobdeck.core.programme.messaging import read_receipts as receipts
from jobdeck.core.queue import producer
from jobdeck.core.registry import Continue, Done
from tests.core.handlers.killing import job_is_gone, kill_while_it_waits, workers
from tests.core.handlers.notice_world import Crash, NoticeWorld, crash_at
from tests.support.queue import Connection
from tests.support.waiting import until

TYPE = "message_read_receipts_backfill"


def archived(notices: NoticeWorld, count: int, *, at: str | None = "2025-03-01T12:00:00Z") -> UUID:
    """Somebody who archived so many messages at one moment, as a bulk archive does."""
    person = notices.profile()
    conversation = notices.written_to(person, count)
    notices.conn.execute(
        "insert into message_user_state (user_id, message_id, archived_at) "
        "select %s, id, %s from messages where conversation_id = %s",
        (person, at, conversation),
    )
    return person


def count(notices: NoticeWorld) -> int:
    return int(notices.conn.row("select count(*) as n from message_read_receipts")["n"])


def test_archived_messages_get_the_receipt_of_when_they_were_archived(notices: NoticeWorld) -> None:
    person = archived(notices, 3)
    done = notices.run_job(backfill)
    assert done == Done({"dryRun": False, "batchSize": 500, "maxRows": None, "scanned": 3, "inserted": 3, "batches": 1})
    rows = notices.conn.rows("select distinct user_id, read_at::text from message_read_receipts")
    assert rows == [{"user_id": person, "read_at": "2025-03-01 12:00:00+00"}]
    assert notices.conn.row("select count(*) as n from programme_unread() where user_id = %s", person)["n"] == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 10_000])
def test_one_timestamp_across_the_borders_of_batches_loses_nobody(notices: NoticeWorld, size: int) -> None:
    for _ in range(2):
        archived(notices, 5)
    output = notices.output(backfill, batchSize=size)
    assert (output["scanned"], output["inserted"], output["batches"]) == (10, 10, -(-10 // size))
    assert count(notices) == 10


@pytest.mark.slow
def test_a_batch_of_five_thousand_is_not_mistaken_for_the_last(notices: NoticeWorld) -> None:
    archived(notices, 6100)
    output = notices.output(backfill, batchSize=5000)
    assert (output["inserted"], output["batches"]) == (6100, 2)


def test_a_second_run_finds_nothing_to_do(notices: NoticeWorld) -> None:
    archived(notices, 4)
    notices.run_job(backfill, batchSize=3)
    with notices.changes_nothing():
        assert notices.output(backfill, batchSize=3)["inserted"] == 0


def test_receipts_that_are_there_stay_and_what_is_not_archived_gets_none(notices: NoticeWorld) -> None:
    person = archived(notices, 3)
    other = notices.profile()
    notices.written_to(other, 2)
    taken_back = archived(notices, 1, at=None)
    message = notices.conn.row("select message_id from message_user_state where user_id = %s limit 1", person)[
        "message_id"
    ]
    notices.conn.insert("message_read_receipts", message_id=message, user_id=person, read_at="2020-01-01T00:00Z")
    assert notices.output(backfill)["inserted"] == 2
    assert notices.conn.row("select count(*) as n from message_read_receipts where read_at < '2021-01-01'")["n"] == 1
    assert notices.conn.rows("select id from message_read_receipts where user_id = any (%s)", [other, taken_back]) == []


def test_own_messages_that_were_archived_count_too(notices: NoticeWorld) -> None:
    person = notices.profile()
    notices.archive(notices.message(notices.conversation(person), person), person)
    assert notices.output(backfill)["inserted"] == 1


@pytest.mark.parametrize(("most", "expected"), [(0, 0), (1, 1), (3, 3), (4, 4), (99, 5)])
def test_the_most_rows_are_kept_and_a_dry_run_says_exactly_how_many(
    notices: NoticeWorld, most: int, expected: int
) -> None:
    archived(notices, 5)
    with notices.changes_nothing():
        told = notices.output(backfill, maxRows=most, batchSize=2, dryRun=True)
    assert (told["wouldInsert"], told["scanned"], told["inserted"]) == (expected, expected, 0)
    assert told["dryRun"] is True
    assert told["batches"] == -(-expected // 2)
    output = notices.output(backfill, maxRows=most, batchSize=2)
    assert (output["scanned"], output["inserted"], count(notices)) == (expected, expected, expected)


def test_with_a_limit_the_next_job_goes_on_where_the_last_one_stopped(notices: NoticeWorld) -> None:
    archived(notices, 5)
    assert [notices.output(backfill, maxRows=2)["inserted"] for _ in range(4)] == [2, 2, 1, 0]


def test_a_dry_run_of_the_worker_changes_nothing_either(notices: NoticeWorld) -> None:
    archived(notices, 2)
    with notices.changes_nothing():
        assert notices.output(backfill, notices.context(dry_run=True))["wouldInsert"] == 2


def test_the_preview_is_what_the_dry_run_says(notices: NoticeWorld) -> None:
    archived(notices, 2)
    context = notices.context()
    with notices.changes_nothing():
        told = backfill.preview(backfill.Params(), context)
    context.close()
    assert told["wouldInsert"] == 2
    assert len(told["first"]) == 2


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_dies_is_finished_by_the_next(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    archived(notices, 7)
    context = notices.context()
    original = receipts.fill
    calls = iter(range(10))

    def fill(*args: Any, **kwargs: Any) -> Any:
        if next(calls) < 1:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise Crash

    monkeypatch.setattr(receipts, "fill", fill)
    with pytest.raises(Crash):
        notices.run_job(backfill, context, batchSize=2)
    monkeypatch.setattr(receipts, "fill", original)
    assert count(notices) == (4 if after else 2)
    again = notices.context(job_id=context.job.id)
    again.save_checkpoint(context.checkpoint or {})
    output = notices.output(backfill, again, batchSize=2)
    assert count(notices) == 7
    assert output["inserted"] == (5 if after else 7)


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 2])
def test_a_killed_worker_leaves_the_rest_to_another(
    notices: NoticeWorld, database_url: str, tmp_path: Path, done: int
) -> None:
    archived(notices, 7)
    job = producer.enqueue(notices.conn, NewJob(TYPE, {"batchSize": 2}, max_attempts=5), actor="mara@local").job_id
    with workers(database_url, notices.sandbox, tmp_path) as crew:
        with Connection.connect(database_url) as holder:
            holder.execute(
                "insert into message_read_receipts (message_id, user_id) "
                "select message_id, user_id from message_user_state order by archived_at, id offset %s limit 1",
                (done,),
            )
            kill_while_it_waits(crew, holder, notices.conn)
            holder.rollback()
        assert count(notices) == done
        crew.start()
        until(lambda: job_is_gone(notices.conn, job), "the end of the job")
    assert count(notices) == 7
    runs = notices.conn.rows("select outcome from job_runs where job_id = %s order by run_token", job)
    assert [run["outcome"] for run in runs] == ["lost", "succeeded"]


def test_what_was_archived_earlier_and_stored_later_is_found_at_the_end(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(notices, 4)
    original = receipts.fill
    late = iter([True])

    def fill(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if next(late, False):
            archived(notices, 1, at="2024-01-01T00:00:00Z")
        return found

    monkeypatch.setattr(receipts, "fill", fill)
    assert notices.output(backfill, batchSize=2)["inserted"] == 5


def test_a_long_run_hands_over_and_goes_on(notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    archived(notices, 5)
    monkeypatch.setattr(backfill, "RUN_SECONDS", 0.0)
    context = notices.context()
    runs = 0
    while isinstance(outcome := notices.run_job(backfill, context, batchSize=2), Continue):
        runs += 1
        assert runs < 10
    assert (outcome.output["inserted"], outcome.output["batches"]) == (5, 3)
    assert count(notices) == 5


def test_a_stop_is_noticed_between_batches(notices: NoticeWorld) -> None:
    archived(notices, 6)
    context = notices.context()
    context.cancel_when = lambda: count(notices) >= 2
    with pytest.raises(Cancelled):
        notices.run_job(backfill, context, batchSize=2)
    assert count(notices) == 2
    assert context.steps == [(2, 6, "receipts")]


def test_another_run_that_inserts_first_is_no_trouble(notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    archived(notices, 3)
    restore = crash_at(monkeypatch, receipts, "fill", after=True)
    with pytest.raises(Crash):
        notices.run_job(backfill)
    restore()
    assert notices.output(backfill)["inserted"] == 0


def test_it_needs_no_provider(notices: NoticeWorld) -> None:
    archived(notices, 1)
    assert notices.output(backfill, notices.context(without="SENDGRID_API_KEY"))["inserted"] == 1


def test_the_rights_of_a_worker_are_enough(notices: NoticeWorld) -> None:
    archived(notices, 2)
    with notices.as_worker():
        assert notices.output(backfill, dryRun=True)["wouldInsert"] == 2
        assert notices.output(backfill)["inserted"] == 2
