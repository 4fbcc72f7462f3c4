"""Erasing the contents of the jobs that carry a value in their payload."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.plugins import Erased
from jobdeck.core.queue import bulk, operator, presence, privacy
from jobdeck.core.read.stats import error_groups
from tests.support.dump import dumped, places
from tests.support.queue import ACTOR, Connection

SECRET = "Quokka Zzyx"
SECRETS = [SECRET, "quokka-77"]
PAYLOAD = {"customerId": 5, "name": SECRET}
EVERYWHERE = {"job_queue", "job_runs", "job_trash", "job_audit", "job_bulk_items", "job_worker_runs"}


def erased(conn: Connection, key: str = "customerId", wanted: str = "5") -> list[Erased]:
    with conn.transaction():
        return privacy.erase_payload(conn, key, wanted, actor=ACTOR)


def mark(conn: Connection) -> str:
    """What is in the place of an erased text."""
    return str(conn.value("SELECT job_erased_mark()"))


def fail(conn: Connection, **fields: Any) -> UUID:
    """A job that failed, with texts about the customer in all that it leaves."""
    job = conn.add(payload=PAYLOAD, **fields)
    texts: Any = {
        "log": f"for {SECRET}",
        "output": {"n": SECRET},
        "progress": {"at": SECRET},
        "traceback": f"{SECRET}!",
    }
    conn.finish_one(conn.claim_one(), "failed", permanent=True, error=f"no {SECRET}", error_kind="Zz", **texts)
    return job.id


def everywhere(conn: Connection) -> UUID:
    """Puts the customer into each table that has texts of jobs; returns the failed job."""
    job = fail(conn, dedupe_key="quokka-77", concurrency_key="quokka-77")
    operator.edit(conn, job, changes={"payload": PAYLOAD | {"n": 1}}, actor=ACTOR, reason=f"as {SECRET} asked")
    operator.delete(conn, [conn.add("beta", payload=PAYLOAD).id], actor=ACTOR)
    finished = conn.add("gamma", payload=PAYLOAD)
    conn.finish_one(conn.claim_one(["gamma"]), output={"n": SECRET}, log=SECRET)
    run = presence.open_worker_run(conn, source="manual", worker_id="w")
    presence.close_worker_run(
        conn, run, status="ok", claimed=1, succeeded=0, failed=1, released=0,
        results=[{"id": str(job), "lastError": SECRET}, {"id": str(uuid4()), "lastError": "another"}],
    )  # fmt: skip
    chosen = bulk.choose_ids(conn, {job: None}, actor=ACTOR)
    conn.execute("UPDATE job_bulk_items SET facts = %s WHERE bulk_id = %s", (f'{{"n": "{SECRET}"}}', chosen.bulk.id))
    assert finished.id != job
    return job


@pytest.mark.slow
def test_nothing_of_the_customer_is_left_in_a_dump(conn: Connection) -> None:
    everywhere(conn)
    before = places(dumped(conn), SECRETS)
    assert set(before) == EVERYWHERE
    told = erased(conn)
    assert places(dumped(conn), SECRETS) == {}
    assert {one.place for one in told} == EVERYWHERE


@pytest.mark.slow
def test_the_rows_stay_with_their_types_times_and_outcomes(conn: Connection) -> None:
    job = everywhere(conn)
    before = conn.job_row(job)
    erased(conn)
    after = conn.job_row(job)
    kept = ("id", "task_type", "status", "created_at", "completed_at", "attempts", "last_outcome")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert (after["payload"], after["last_error"]) == ({}, mark(conn))
    assert {(row["outcome"], row["error_kind"]) for row in conn.rows("SELECT * FROM job_runs")} == {
        ("failed", "Zz"),
        ("succeeded", None),
    }
    (group,) = error_groups.groups().run(conn)
    assert group.sample == mark(conn)
    assert conn.value("SELECT results FROM job_worker_runs")[0]["lastError"] == "another"


def test_other_jobs_stay_as_they_are(conn: Connection) -> None:
    fail(conn)
    others = [conn.add("beta", payload={"customerId": number, "name": SECRET}).id for number in (55, "50", 6)]
    before = [conn.job_row(other) for other in others]
    erased(conn)
    assert [conn.job_row(other) for other in others] == before


def test_a_longer_value_is_removed_from_every_text_of_the_queue(conn: Connection) -> None:
    conn.add(payload={"mail": "zzann@example.org"})
    other = conn.add("beta", payload={"to": {"cc": "ZZANN@example.org"}, "n": 1})
    operator.pause(conn, reason="zzann@example.org asked", actor=ACTOR, task_type="beta")
    erased(conn, "mail", "zzann@example.org")
    assert conn.job_row(other.id)["payload"] == {"to": {"cc": mark(conn)}, "n": 1}
    assert conn.value("SELECT reason FROM job_paused_types") == mark(conn)


def test_jobs_that_wait_are_cancelled_and_those_that_wait_for_them_too(conn: Connection) -> None:
    job = conn.add(payload=PAYLOAD)
    waiter = conn.add("beta", blocked_by=job.id)
    erased(conn)
    assert [conn.job_row(one)["status"] for one in (job.id, waiter.id)] == ["cancelled", "cancelled"]


def test_the_next_job_with_the_key_runs(conn: Connection) -> None:
    conn.add(payload=PAYLOAD, concurrency_key="k")
    follower = conn.add(concurrency_key="k")
    erased(conn)
    assert conn.claim_one().id == follower.id


@pytest.mark.slow
def test_the_audit_says_what_was_erased_and_not_the_value(conn: Connection) -> None:
    fail(conn)
    erased(conn)
    (row,) = conn.rows("SELECT * FROM job_audit WHERE action = 'erase'")
    assert row["after"] == {"payload_key": "customerId", "jobs": 1}
    assert row["actor"].startswith(ACTOR)


@pytest.mark.parametrize("wanted", ["6", "", "5 "])
def test_a_value_that_no_job_has_is_refused(conn: Connection, wanted: str) -> None:
    fail(conn)
    before = dumped(conn)
    with pytest.raises(Refused, match="No job has this key and value in its payload"):
        erased(conn, wanted=wanted)
    assert dumped(conn) == before


def test_a_running_job_is_refused_by_name_and_nothing_is_half_done(conn: Connection) -> None:
    fail(conn)
    conn.add("beta", payload=PAYLOAD)
    running = conn.claim_one(["beta"])
    before = dumped(conn)
    with pytest.raises(Refused, match=f"Job {running.id}, whose texts would be erased, is running."):
        erased(conn)
    assert dumped(conn) == before


@pytest.mark.slow
def test_a_job_that_another_session_has_locked_is_refused(conn: Connection, database_url: str) -> None:
    fail(conn)
    before = dumped(conn)
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue FOR UPDATE")
        with pytest.raises(Refused, match="Another session has locked a row of theirs"):
            erased(conn)
    assert dumped(conn) == before


class TestStatistics:
    """The groups of errors: their hashes and patterns are erased, and no run is lost from a count."""

    def counts(self, conn: Connection) -> list[tuple[str, int]]:
        return [(group.sample, group.count) for group in error_groups.groups().run(conn)]

    def fail_with(self, conn: Connection, error: str, **payload: Any) -> UUID:
        job = conn.add(max_attempts=1, payload=payload)
        conn.finish_one(conn.claim_one(), "failed", error=error, error_kind="Zz")
        return job.id

    @pytest.mark.parametrize("compacted", [False, True])
    def test_the_runs_of_an_erased_job_are_counted_in_the_group_of_erased_errors(
        self, conn: Connection, compacted: bool
    ) -> None:
        erased_job = self.fail_with(conn, "no Zzann here", customerId=5)
        other = self.fail_with(conn, "no route")
        if compacted:
            conn.execute("SELECT job_stats_compact(1000)")
        erased(conn)
        assert sorted(self.counts(conn)) == [(mark(conn), 1), ("no route", 1)]
        assert places(dumped(conn), ["Zzann"]) == {}
        hashes = {row["fingerprint"] for row in conn.rows("SELECT fingerprint FROM job_error_groups")}
        assert hashes == {row["fingerprint"] for row in conn.rows("SELECT fingerprint FROM job_runs")}
        found = {group.sample: group for group in error_groups.groups().run(conn)}
        assert [job.id for job in error_groups.alike(*found[mark(conn)].key).run(conn)] == [erased_job]
        assert [job.id for job in error_groups.alike(*found["no route"].key).run(conn)] == [other]

    def test_a_group_that_other_jobs_share_stays_without_the_erased_run(self, conn: Connection) -> None:
        self.fail_with(conn, "no route", customerId=5)
        self.fail_with(conn, "no route")
        erased(conn)
        assert sorted(self.counts(conn)) == [(mark(conn), 1), ("no route", 1)]

    def test_a_text_is_replaced_in_a_group_of_which_the_history_has_no_run(self, conn: Connection) -> None:
        conn.add(payload={"mail": "zzann@example.org"})
        conn.execute(
            """
            INSERT INTO job_error_groups (task_type, fingerprint, error_kind, pattern, first_at, last_at)
            SELECT 'beta', job_error_fingerprint('Zz', t), 'Zz', t, now(), now()
            FROM unnest(ARRAY['refused zzann@example.org', job_error_pattern(job_erased_mark())]) AS t
            """
        )
        conn.execute(
            """
            INSERT INTO job_stat_errors (task_type, fingerprint, bucket, runs)
            SELECT task_type, fingerprint, job_stat_bucket(5, now()), 3 FROM job_error_groups
            """
        )
        erased(conn, "mail", "zzann@example.org")
        assert self.counts(conn) == [("[erased on #-#-#]", 6)]
        assert conn.value("SELECT fingerprint = job_error_fingerprint('Zz', pattern) FROM job_error_groups")
