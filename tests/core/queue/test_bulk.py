"""Actions on many jobs: what is frozen, that each job is acted on once whoever carries on, and the answer of each."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.queue import bulk, leases, producer
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.queue.bulk_model import Bulk, BulkVerb, Choice, Share
from jobdeck.core.read.filters import parse_filter
from tests.support.people import People
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import together, until
from tests.support.working import working

SOON = timedelta(seconds=11)


def chosen(conn: Connection, words: str = "") -> Choice:
    found = bulk.choose(conn, parse_filter(words), actor=ACTOR)
    assert found is not None
    return found


def to_the_end(conn: Connection, bulk_id: UUID, *, limit: int = 2) -> Bulk:
    """Steps until nothing is left; fails when a step brings it no further."""
    done = -1
    while True:
        now = bulk.step(conn, bulk_id, driver=ACTOR, limit=limit)
        if now.state != "running":
            return now
        assert now.done > done
        done = now.done


def carried_out(conn: Connection, choice: Choice, verb: BulkVerb, *, limit: int = 2) -> Bulk:
    bulk.start(conn, choice.bulk.id, verb, actor=ACTOR, reason="a test")
    return to_the_end(conn, choice.bulk.id, limit=limit)


def statuses(conn: Connection) -> dict[UUID, str]:
    return dict(conn.execute("SELECT id, status FROM job_queue").fetchall())


def test_a_choice_names_how_many_of_what_and_the_first_of_them(conn: Connection) -> None:
    jobs = [conn.add(kind) for kind in ("alpha", "alpha", "beta")]
    conn.add("gamma")
    queue_operator.cancel(conn, [jobs[2].id], actor=ACTOR)
    choice = chosen(conn, "type:a")
    assert choice.bulk.total == 4
    choice = chosen(conn, "type:alpha")
    assert (choice.bulk.total, choice.bulk.words, choice.bulk.state) == (2, "type:alpha", "chosen")
    assert choice.shares == (Share("alpha", "pending", 2),)
    assert choice.of("pending") == 2
    assert {job.id for job in choice.first} == {jobs[0].id, jobs[1].id}
    assert bulk.choose(conn, Filter(search="zebra"), actor=ACTOR) is None
    assert conn.value("SELECT count(*) FROM job_bulk WHERE words = 'zebra'") == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("status:pending", {0, 1, 2}),
        ("type:beta", {1}),
        ("red", {2}),
        ("attempts>=1", {3}),
        ("error:boom", {3}),
        ("payload.customerId:c-9", {2}),
        ("age>1h", set()),
        ("outcome:failed", {3}),
    ],
)
def test_every_word_of_the_filter_chooses(conn: Connection, words: str, expected: set[int]) -> None:
    jobs = [
        conn.add(), conn.add("beta"), conn.add(payload={"word": "red", "customerId": "c-9"}),
        conn.add("fails", max_attempts=1),
    ]  # fmt: skip
    claimed = conn.claim_one(["fails"])
    conn.execute(
        """
        SELECT job_queue_finish('worker-1', ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY['failed'], ARRAY[now()],
            ARRAY[now()], ARRAY['{"error": "boom", "permanent": true}'::jsonb], 1, 1)
        """,
        (claimed.id, claimed.run_token),
    )
    found = bulk.choose(conn, parse_filter(words), actor=ACTOR)
    ids = {job.id for job in found.first} if found else set()
    assert ids == {jobs[at].id for at in expected}


def test_an_action_is_done_to_what_was_chosen_and_to_nothing_that_came_later(conn: Connection) -> None:
    before = [conn.add().id for _ in range(5)]
    choice = chosen(conn, "type:alpha")
    later = conn.add().id
    ended = carried_out(conn, choice, "cancel")
    assert (ended.state, ended.total, ended.done, ended.refused, ended.left) == ("finished", 5, 5, 0, 0)
    assert ended.finished_at is not None
    assert statuses(conn) == {**dict.fromkeys(before, "cancelled"), later: "pending"}


def test_each_job_has_its_answer_and_the_refused_can_be_looked_at_alone(conn: Connection) -> None:
    jobs = sorted(conn.add().id for _ in range(4))
    choice = chosen(conn)
    claim_one_of = leases.claim(conn, "w", ["alpha"], 1, 60)[0].id
    gone = next(job for job in jobs if job != claim_one_of)
    queue_operator.delete(conn, [gone], actor="somebody else")
    ended = carried_out(conn, choice, "delete")
    assert ended.refused == 2
    answers = bulk.answers(conn, ended.id)
    assert [answer.job_id for answer in answers] == jobs
    assert {answer.job_id for answer in answers if answer.ok} == set(jobs) - {claim_one_of, gone}
    refused = {answer.job_id: answer.message for answer in bulk.answers(conn, ended.id, refused=True)}
    assert "has changed and is now" in (refused[claim_one_of] or "")
    assert "deleted" in (refused[gone] or "")
    assert bulk.answers(conn, ended.id, after=jobs[1], limit=1) == [answers[2]]
    assert answers[0].task_type == "alpha"


def test_a_job_that_changed_since_it_was_chosen_is_not_touched(conn: Connection) -> None:
    job = conn.add()
    choice = chosen(conn)
    queue_operator.edit(conn, job.id, changes={"priority": 5}, actor="somebody else")
    ended = carried_out(conn, choice, "cancel")
    assert ended.refused == 1
    assert conn.job_row(job.id)["status"] == "pending"


def test_ids_are_chosen_in_the_version_that_was_seen_and_unknown_ones_are_answered_for(conn: Connection) -> None:
    one, two, nobody = conn.add(), conn.add(), uuid4()
    choice = bulk.choose_ids(conn, {one.id: one.version, two.id: two.version + 1, nobody: None}, actor=ACTOR)
    assert choice.of(None) == 2
    ended = carried_out(conn, choice, "cancel")
    assert (ended.total, ended.refused) == (3, 2)
    assert statuses(conn) == {one.id: "cancelled", two.id: "pending"}


def test_a_choice_is_used_once_and_an_unknown_verb_never(conn: Connection) -> None:
    conn.add()
    choice = chosen(conn)
    with pytest.raises(Refused, match="no action"):
        bulk.start(conn, choice.bulk.id, "burn", actor=ACTOR)  # type: ignore[arg-type]
    carried_out(conn, choice, "cancel")
    with pytest.raises(Refused, match="already used"):
        bulk.start(conn, choice.bulk.id, "retry", actor=ACTOR)
    bulk.drop(conn, choice.bulk.id)
    assert bulk.find(conn, choice.bulk.id) is not None


def test_a_choice_that_is_dropped_is_gone_and_nothing_was_done(conn: Connection) -> None:
    conn.add()
    choice = chosen(conn)
    assert bulk.step(conn, choice.bulk.id, driver=ACTOR).state == "chosen"
    bulk.drop(conn, choice.bulk.id)
    assert bulk.find(conn, choice.bulk.id) is None
    assert conn.value("SELECT count(*) FROM job_bulk_items") == 0
    with pytest.raises(Refused, match="no longer exists"):
        bulk.step(conn, choice.bulk.id, driver=ACTOR)


def test_a_step_that_fails_half_way_has_done_nothing_and_the_next_does_it_once(conn: Connection) -> None:
    for _ in range(4):
        conn.add()
    choice = chosen(conn)
    bulk.start(conn, choice.bulk.id, "cancel", actor=ACTOR)
    bulk.step(conn, choice.bulk.id, driver=ACTOR, limit=2)
    with conn.transaction(force_rollback=True):
        bulk.step(conn, choice.bulk.id, driver=ACTOR, limit=1)
    assert sorted(statuses(conn).values()) == ["cancelled", "cancelled", "pending", "pending"]
    assert to_the_end(conn, choice.bulk.id).done == 4
    assert [row["action"] for row in conn.audit_rows()].count("cancel") == 4


@pytest.mark.slow
def test_two_that_carry_out_one_action_do_each_job_once(conn: Connection, database_url: str) -> None:
    for _ in range(40):
        conn.add()
    choice = chosen(conn)
    bulk.start(conn, choice.bulk.id, "cancel", actor=ACTOR)

    def drive() -> None:
        with Connection.connect(database_url, autocommit=True) as other:
            while bulk.step(other, choice.bulk.id, driver="other", limit=3).state == "running":
                pass

    together(drive, drive, drive)
    ended = bulk.find(conn, choice.bulk.id)
    assert ended is not None
    assert (ended.state, ended.done, ended.refused) == ("finished", 40, 0)
    assert len(conn.audit_rows("cancel")) == 40


def test_a_worker_goes_on_with_what_nobody_carries_further_and_stays_with_it(conn: Connection) -> None:
    for _ in range(6):
        conn.add()
    choice = chosen(conn)
    bulk.start(conn, choice.bulk.id, "cancel", actor=ACTOR)
    bulk.step(conn, choice.bulk.id, driver=ACTOR, limit=1)
    conn.just_stepped()
    assert not bulk.resume_stalled(conn, "worker-1", limit=2)
    conn.advance(SOON + timedelta(minutes=1))
    assert bulk.resume_stalled(conn, "worker-1", limit=2)
    conn.just_stepped()
    assert not bulk.resume_stalled(conn, "worker-2", limit=2)
    assert bulk.resume_stalled(conn, "worker-1", limit=2)
    assert not bulk.resume_stalled(conn, "worker-1", limit=2)
    ended = bulk.find(conn, choice.bulk.id)
    assert ended is not None
    assert (ended.state, ended.done, ended.driver) == ("finished", 6, "worker-1")


def test_who_began_it_takes_it_back_from_a_worker(conn: Connection) -> None:
    for _ in range(4):
        conn.add()
    choice = chosen(conn)
    bulk.start(conn, choice.bulk.id, "cancel", actor=ACTOR)
    conn.advance(SOON)
    assert bulk.resume_stalled(conn, "worker-1", limit=1)
    bulk.step(conn, choice.bulk.id, driver=ACTOR, limit=1)
    conn.just_stepped()
    assert not bulk.resume_stalled(conn, "worker-1", limit=1)


def test_what_goes_wrong_is_kept_with_the_action_and_keeps_the_worker_from_nothing(conn: Connection) -> None:
    conn.add()
    choice = chosen(conn)
    bulk.start(conn, choice.bulk.id, "delete", actor=ACTOR)
    conn.execute("ALTER TABLE job_trash RENAME TO elsewhere")
    advance_only_bulk(conn)
    assert not bulk.resume_stalled(conn, "worker-1")
    troubled = bulk.find(conn, choice.bulk.id)
    assert troubled is not None
    assert troubled.state == "running"
    assert "job_trash" in (troubled.trouble or "")
    conn.execute("ALTER TABLE elsewhere RENAME TO job_trash")
    advance_only_bulk(conn)
    assert not bulk.resume_stalled(conn, "worker-1")
    ended = bulk.find(conn, choice.bulk.id)
    assert ended is not None
    assert (ended.state, ended.trouble) == ("finished", None)


def advance_only_bulk(conn: Connection) -> None:
    conn.execute("UPDATE job_bulk SET stepped_at = stepped_at - %s", (SOON,))


def test_stopping_leaves_the_rest_as_it_was_and_says_who_stopped_it(conn: Connection) -> None:
    for _ in range(4):
        conn.add()
    choice = chosen(conn)
    bulk.start(conn, choice.bulk.id, "cancel", actor=ACTOR)
    bulk.step(conn, choice.bulk.id, driver=ACTOR, limit=1)
    assert bulk.stop(conn, choice.bulk.id, actor=ACTOR)
    assert not bulk.stop(conn, choice.bulk.id, actor=ACTOR)
    stopped = bulk.step(conn, choice.bulk.id, driver=ACTOR)
    assert (stopped.state, stopped.done, stopped.left) == ("stopped", 1, 3)
    assert (stopped.stopped_by or "").startswith(ACTOR)
    conn.advance(SOON)
    assert not bulk.resume_stalled(conn, "worker-1")
    assert sorted(statuses(conn).values()) == ["cancelled", "pending", "pending", "pending"]
    assert [answer.ok for answer in bulk.answers(conn, stopped.id)].count(None) == 3


def test_a_bulk_delete_can_be_taken_back(conn: Connection) -> None:
    jobs = {conn.add().id for _ in range(3)}
    running = conn.add("beta").id
    leases.claim(conn, "w", ["beta"], 1, 60)
    deleted = carried_out(conn, chosen(conn), "delete")
    assert (deleted.done, deleted.refused) == (4, 1)
    again = bulk.choose_again(conn, deleted.id, "done", actor=ACTOR)
    assert again is not None
    assert again.bulk.total == 3
    restored = carried_out(conn, again, "restore")
    assert restored.refused == 0
    assert set(statuses(conn)) == jobs | {running}
    refused = bulk.choose_again(conn, deleted.id, "refused", actor=ACTOR)
    assert refused is not None
    assert [job.id for job in refused.first] == [running]
    assert bulk.choose_again(conn, restored.id, "refused", actor=ACTOR) is None
    with pytest.raises(Refused, match="no such bulk action"):
        bulk.choose_again(conn, uuid4(), "all", actor=ACTOR)


@pytest.mark.slow
def test_the_audit_names_who_began_it_and_who_carried_it_out(
    conn: Connection, postgres: PostgresServer, database_url: str, people: People
) -> None:
    del postgres
    for _ in range(2):
        conn.add()
    with people.sign_in(database_url, "job_operator") as operator:
        choice = chosen(operator)
        bulk.start(operator, choice.bulk.id, "cancel", actor=ACTOR, reason="bad data")
        bulk.step(operator, choice.bulk.id, driver=ACTOR, limit=1)
        role = operator.value("SELECT session_user::text")
    conn.advance(SOON)
    with people.sign_in(database_url, "job_worker") as worker:
        bulk.resume_stalled(worker, "worker-1")
        carrier = worker.value("SELECT session_user::text")
    (begun,) = conn.audit_rows("bulk cancel")
    assert begun["after"] == {"bulk": str(choice.bulk.id), "jobs": 2, "filter": ""}
    first, second = conn.audit_rows("cancel")
    assert first["actor"] == f"{ACTOR} ({role})"
    assert second["actor"] == f"{ACTOR} ({role}), carried out by ({carrier})"
    assert {row["reason"] for row in (begun, first, second)} == {"bad data"}


@pytest.mark.slow
def test_old_actions_and_choices_that_came_to_nothing_are_taken_away(conn: Connection) -> None:
    conn.add()
    kept = carried_out(conn, chosen(conn), "cancel")
    chosen(conn)
    conn.advance(timedelta(hours=2))
    conn.reap()
    assert [row["id"] for row in conn.rows("SELECT id FROM job_bulk")] == [kept.id]
    conn.advance(timedelta(days=31))
    conn.reap()
    assert conn.rows("SELECT id FROM job_bulk") == []
    assert conn.value("SELECT count(*) FROM job_bulk_items") == 0


def test_a_bulk_action_is_found_by_the_end_of_its_id(conn: Connection) -> None:
    conn.add()
    made = carried_out(conn, chosen(conn), "cancel")
    assert bulk.resolve(conn, str(made.id)) == made.id
    assert bulk.resolve(conn, made.id.hex[-8:]) == made.id
    assert [listed.id for listed in bulk.newest(conn)] == [made.id]
    with pytest.raises(Refused, match="00000000"):
        bulk.resolve(conn, "00000000")
    with pytest.raises(UsageError):
        bulk.resolve(conn, "nonsense")


@pytest.mark.slow
def test_ten_thousand_jobs_and_more_are_acted_on(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha")] * 10_500, actor=ACTOR)
    choice = chosen(conn, "type:alpha")
    assert choice.bulk.total == 10_500
    ended = carried_out(conn, choice, "delete", limit=bulk.BATCH)
    assert (ended.done, ended.refused) == (10_500, 0)
    assert conn.value("SELECT count(*) FROM job_queue") == 0


@pytest.mark.parametrize("group", ["job_viewer", "job_worker", None])
def test_only_an_operator_chooses_and_begins(
    conn: Connection, people: People, database_url: str, group: str | None
) -> None:
    conn.add()
    choice = chosen(conn)
    with people.sign_in(database_url, group) as other:
        for call in (
            lambda: bulk.choose(other, Filter(status=Status.PENDING), actor=ACTOR),
            lambda: bulk.choose_ids(other, {}, actor=ACTOR),
            lambda: bulk.choose_again(other, choice.bulk.id, "all", actor=ACTOR),
            lambda: bulk.start(other, choice.bulk.id, "delete", actor=ACTOR),
            lambda: bulk.step(other, choice.bulk.id, driver=ACTOR),
            lambda: bulk.stop(other, choice.bulk.id, actor=ACTOR),
            lambda: bulk.drop(other, choice.bulk.id),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                call()
        if group == "job_worker":
            assert not bulk.resume_stalled(other, "worker-1")
            return
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            bulk.resume_stalled(other, "w")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            bulk.answers(other, choice.bulk.id)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute(sql.SQL("SELECT * FROM job_bulk_items"))


@pytest.mark.slow
def test_a_standing_worker_finishes_what_was_left_unfinished(conn: Connection, database_url: str) -> None:
    producer.enqueue_many(conn, [NewJob("alpha")] * (2 * bulk.BATCH + 1), actor=ACTOR)
    choice = chosen(conn)
    bulk.start(conn, choice.bulk.id, "cancel", actor=ACTOR)
    advance_only_bulk(conn)

    def ended() -> bool:
        found = bulk.find(conn, choice.bulk.id)
        return found is not None and found.state == "finished"

    with working(database_url):
        until(ended, "the end of the bulk action")
    assert set(statuses(conn).values()) == {"cancelled"}
