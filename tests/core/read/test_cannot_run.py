"""The signal "cannot run": each reason why due jobs cannot start, its severity, and its words."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.queue import operator
from jobdeck.core.read.verdict.cannot_run import NAMED
from jobdeck.core.read.verdict.health import health
from tests.support.health import announce, finding, findings
from tests.support.queue import ACTOR, Connection, report

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
NEWER = "The payload does not fit alpha: {}. The job was not run: a newer program may know such a field."


def cannot(conn: Connection) -> Finding | None:
    """The only finding of this signal, if there is one."""
    found = findings(conn, "cannot run")
    assert len(found) < 2
    return found[0] if found else None


def found(conn: Connection, verdict: Verdict, words: str) -> Finding:
    """The only finding of this signal, which has this verdict and begins with these words."""
    one = cannot(conn)
    assert one is not None
    assert (one.verdict, one.evidence[: len(words)]) == (verdict, words)
    return one


def put_off(conn: Connection, *fields: str, jobs: int = 1) -> None:
    """A worker puts due jobs off, because it does not know these fields of their payload."""
    error = NEWER.format("; ".join(f"{name}: is not a field of this task type" for name in fields))
    held = conn.claim(limit=jobs)
    assert len(held) == jobs
    conn.finish(*(report(one, "snoozed", delay=120.0, give_up_after=3600.0, error_kind="newer_payload", error=error)
                   for one in held))  # fmt: skip


def usual(conn: Connection) -> None:
    """A run of the type has taken 10 minutes."""
    conn.add()
    (claimed,) = conn.claim()
    conn.finish_one(claimed, finished=claimed.claimed_at.timestamp() + 600)
    conn.advance(MINUTE)
    conn.reap()


def hold(conn: Connection, **fields: str) -> str:
    """A run that takes a place, of a type whose runs usually take 10 minutes; the last digits of its job's id."""
    usual(conn)
    conn.add(**fields)
    (held,) = conn.claim(lease=7200.0)
    return held.id.hex[-8:]


def test_a_queue_whose_jobs_wait_for_their_turn_has_no_such_finding(conn: Connection) -> None:
    announce(conn)
    operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
    hold(conn)
    conn.add(run_at=conn.now() - HOUR)
    conn.add("beta", run_at=conn.now() + HOUR)
    assert cannot(conn) is None


def fails_from(finding: Finding, *times: datetime) -> bool:
    """Whether it names one of these minutes; the day as well, where it is another one than that of the verdict."""
    said = [f"they fail from {day}{at:%H:%MZ} on" for at in times for day in ("", f"{at:%Y-%m-%d} ")]
    return any(words in finding.evidence for words in said)


class TestUnknownFields:
    def test_the_fields_the_count_and_the_deadline_are_named_at_the_first_look(self, conn: Connection) -> None:
        announce(conn)
        announce(conn, "worker-2")
        for _ in range(3):
            conn.add()
        before = conn.now()
        put_off(conn, "locale", jobs=3)
        one = found(
            conn, Verdict.CRITICAL, "alpha: 3 jobs have `locale`, which none of 2 workers knows; they fail from "
        )
        assert fails_from(one, before + HOUR, conn.now() + HOUR)
        assert one.evidence.endswith(
            "Deploy the workers, or `jobdeck edit --filter 'type:alpha status:pending' --unset locale`."
        )
        assert one.subject == "alpha"

    def test_the_deadline_is_when_the_first_job_fails(self, conn: Connection) -> None:
        announce(conn)
        job = conn.add()
        before = conn.now()
        put_off(conn, "locale")
        conn.advance(59 * MINUTE)
        announce(conn)
        conn.add()
        put_off(conn, "locale", jobs=2)
        one = cannot(conn)
        assert one is not None
        assert fails_from(one, before + MINUTE, conn.now() + MINUTE)
        conn.advance(2 * MINUTE)
        put_off(conn, "locale", jobs=2)
        assert operator.retry(conn, [job.id], actor=ACTOR, dry_run=True)[0].status == "failed"
        found(conn, Verdict.CRITICAL, "alpha: 1 job has `locale`, which no worker knew; it fails at ")

    def test_several_fields_and_nested_ones_are_named_without_a_command_that_could_not_work(
        self, conn: Connection
    ) -> None:
        announce(conn)
        conn.add()
        put_off(conn, "part.colour", "a", "b", "c")
        one = found(
            conn, Verdict.CRITICAL, "alpha: 1 job has `part.colour`, `a`, `b` and 1 more, which the one worker "
        )
        assert one.evidence.endswith("Deploy the workers, or edit the payloads.")

    def test_a_field_that_is_an_address_is_masked_and_not_repeated_in_the_command(self, conn: Connection) -> None:
        announce(conn)
        conn.add()
        put_off(conn, "mia@school.example")
        one = found(conn, Verdict.CRITICAL, "alpha: 1 job has `")
        assert "mia@school" not in one.evidence

    def test_it_ends_when_a_newer_worker_has_run_the_jobs(self, conn: Connection) -> None:
        announce(conn)
        conn.add()
        put_off(conn, "locale")
        conn.advance(20 * MINUTE)
        conn.reap()
        announce(conn)
        found(conn, Verdict.CRITICAL, "alpha: 1 job has `locale`")
        conn.run_once()
        assert cannot(conn) is None


class TestNoWorker:
    def test_it_is_critical_after_a_minute_and_replaces_the_finding_of_due_jobs(self, conn: Connection) -> None:
        announce(conn)
        due = conn.now()
        conn.add("beta", run_at=due)
        conn.add("beta", run_at=due)
        found(conn, Verdict.WARNING, "beta: 2 jobs are due, and the one live worker does not handle this type.")
        conn.advance(HOUR)
        announce(conn)
        announce(conn, "worker-2")
        found(conn, Verdict.CRITICAL, "beta: 2 jobs are due, and none of 2 live workers handles this type. Start one")
        assert (finding(conn, "due jobs").verdict, findings(conn, "claims")) == (Verdict.OK, [])

    def test_a_type_that_the_calls_of_a_scheduler_run_is_none(self, conn: Connection) -> None:
        announce(conn)
        for _ in range(2):
            conn.add_waiting(conn.now() - HOUR, "beta")
        found(conn, Verdict.CRITICAL, "beta: 2 jobs are due, and the one live worker does not handle this type.")
        conn.finish_one(conn.claim(["beta"], limit=1)[0])
        assert cannot(conn) is None
        conn.advance(HOUR)
        announce(conn)
        found(conn, Verdict.CRITICAL, "beta: 1 job is due, and the one live worker does not handle this type.")

    def test_where_those_calls_wait_for_a_place_its_holder_is_named(self, conn: Connection) -> None:
        announce(conn, types=["beta"])
        conn.add(run_at=conn.now() - HOUR)
        conn.run_once()
        operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
        conn.add(run_at=conn.now() - HOUR)
        (held,) = conn.claim(lease=7200.0)
        conn.add(run_at=conn.now() - MINUTE)
        conn.advance(6 * MINUTE)
        announce(conn, types=["beta"])
        found(conn, Verdict.WARNING, f"alpha: 1 job waits, and the only place is held by job {str(held.id)[-8:]} for ")

    def test_without_any_worker_the_workers_are_the_finding(self, conn: Connection) -> None:
        conn.add()
        assert cannot(conn) is None

    def test_series_of_such_a_type_are_not_said_to_be_late_as_well(self, conn: Connection) -> None:
        announce(conn)
        conn.add("beta", recurrence_interval_minutes=5, run_at=conn.now() - HOUR)
        assert findings(conn, "late series") == []
        conn.add(recurrence_interval_minutes=5, run_at=conn.now() - HOUR)
        assert finding(conn, "late series").evidence.startswith("1 late, alpha the longest")

    def test_more_types_than_are_named_share_the_last_finding(self, conn: Connection) -> None:
        announce(conn)
        for number in range(NAMED + 2):
            conn.add(f"beta_{number:02}")
        names = findings(conn, "cannot run")
        assert len(names) == NAMED
        assert names[-1].evidence.startswith("3 more types have due jobs that cannot start.")
        assert names[-1].subject == "others"


class TestPlaces:
    def test_a_limit_that_a_run_holds_three_times_as_long_as_usual_names_it(self, conn: Connection) -> None:
        announce(conn)
        operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
        job = hold(conn)
        conn.advance(30 * MINUTE)
        conn.add()
        announce(conn)
        assert cannot(conn) is None
        assert "1 of 1 of this type are taken" in finding(conn, "due jobs").evidence
        conn.advance(10 * MINUTE)
        announce(conn)
        one = found(
            conn, Verdict.WARNING, f"alpha: 1 job waits, and the only place is held by job {job} for 40m (since "
        )
        assert "usually at most 12m" in one.evidence
        assert one.evidence.endswith(f"`jobdeck cancel {job}` ends it.")
        assert finding(conn, "due jobs").evidence == "No other jobs wait."

    def test_it_becomes_critical_when_the_jobs_have_waited_as_long_as_due_jobs_may(self, conn: Connection) -> None:
        announce(conn)
        operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
        hold(conn)
        conn.add()
        conn.advance(HOUR)
        announce(conn)
        found(conn, Verdict.CRITICAL, "alpha: 1 job waits, and the only place is held by")

    def test_while_one_place_has_a_run_of_usual_length_the_limit_is_not_held(self, conn: Connection) -> None:
        announce(conn)
        operator.set_type(conn, "alpha", changes={"max_running": 2}, actor=ACTOR, reason=None)
        hold(conn)
        conn.advance(HOUR)
        announce(conn)
        conn.add()
        conn.claim(lease=7200.0)
        conn.add()
        assert cannot(conn) is None
        conn.advance(HOUR)
        announce(conn)
        found(conn, Verdict.CRITICAL, "alpha: 1 job waits, and all 2 places are held, the longest by job ")

    def test_a_type_without_a_success_has_five_minutes(self, conn: Connection) -> None:
        announce(conn)
        operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
        conn.add()
        conn.claim(lease=7200.0)
        conn.add()
        conn.advance(3 * MINUTE)
        announce(conn)
        assert cannot(conn) is None
        conn.advance(3 * MINUTE)
        announce(conn)
        one = found(conn, Verdict.WARNING, "alpha: 1 job waits, and the only place is held by")
        assert "usually" not in one.evidence

    def test_a_key_that_is_held_is_found_by_the_jobs_in_its_line(self, conn: Connection) -> None:
        announce(conn)
        job = hold(conn, concurrency_key="k")
        conn.advance(30 * MINUTE)
        for _ in range(2):
            conn.add(concurrency_key="k")
        conn.add(concurrency_key="k", run_at=conn.now() + HOUR)
        conn.add(concurrency_key="free")
        assert cannot(conn) is None
        conn.advance(10 * MINUTE)
        announce(conn)
        found(conn, Verdict.WARNING, f"alpha: 2 jobs wait for a key that is held by job {job} for 40m (since ")

    def test_a_key_with_a_place_left_is_not_held(self, conn: Connection) -> None:
        operator.set_type(conn, "alpha", changes={"max_per_key": 2}, actor=ACTOR, reason=None)
        hold(conn, concurrency_key="k")
        conn.advance(HOUR)
        announce(conn)
        conn.add(concurrency_key="k")
        assert cannot(conn) is None


class TestPauses:
    @pytest.mark.parametrize(
        ("ends", "paused", "verdict"),
        [(True, 2 * MINUTE, Verdict.OK), (False, 23 * HOUR, Verdict.OK), (False, 25 * HOUR, Verdict.WARNING)],
    )
    def test_a_pause_is_listed_and_one_without_an_end_is_a_warning_after_a_day(
        self, conn: Connection, ends: bool, paused: timedelta, verdict: Verdict
    ) -> None:
        until = conn.now() + HOUR if ends else None
        operator.pause(conn, reason="vendor is down", actor=ACTOR, task_type="alpha", resume_at=until)
        conn.add()
        conn.advance(paused)
        announce(conn)
        one = found(conn, verdict, f"alpha: 1 job is due, and the type was paused by {ACTOR} (")
        assert "vendor is down" in one.evidence
        assert ("until" in one.evidence) is ends
        assert one.evidence.endswith("`jobdeck resume --type alpha` resumes it.")
        assert finding(conn, "due jobs").verdict is Verdict.OK

    @pytest.mark.parametrize(("expires", "verdict"), [(MINUTE * 40, Verdict.CRITICAL), (HOUR * 3, Verdict.OK)])
    def test_a_job_that_expires_within_the_hour_is_critical(
        self, conn: Connection, expires: timedelta, verdict: Verdict
    ) -> None:
        announce(conn)
        operator.pause(conn, reason="vendor is down", actor=ACTOR, task_type="alpha")
        conn.add(expires_at=conn.now() + expires)
        one = cannot(conn)
        assert one is not None
        assert (one.verdict, "The first expires at" in one.evidence) == (verdict, verdict is Verdict.CRITICAL)

    def test_a_pause_that_ends_before_its_jobs_expire_is_well(self, conn: Connection) -> None:
        announce(conn)
        ends = conn.now() + 10 * MINUTE
        operator.pause(conn, reason="vendor is down", actor=ACTOR, task_type="alpha", resume_at=ends)
        conn.add(expires_at=conn.now() + 40 * MINUTE)
        found(conn, Verdict.OK, "alpha: 1 job is due")

    def test_a_paused_series_that_is_overdue_is_listed(self, conn: Connection) -> None:
        announce(conn)
        job = conn.add(recurrence_interval_minutes=5)
        operator.pause_series(conn, job.id, actor=ACTOR)
        found(conn, Verdict.OK, "alpha: 1 paused series is overdue, paused since ")
        conn.advance(25 * HOUR)
        announce(conn)
        one = found(conn, Verdict.WARNING, "alpha: 1 paused series is overdue")
        assert one.evidence.endswith(f"`jobdeck series resume {job.id.hex[-8:]}` resumes it.")

    def test_nothing_is_late_while_everything_is_paused(self, conn: Connection) -> None:
        announce(conn)
        conn.add("beta", run_at=conn.now() - HOUR)
        operator.pause(conn, reason=None, actor=ACTOR)
        found(conn, Verdict.PAUSED, "beta: 1 job is due")
        assert health().run(conn).verdict is Verdict.PAUSED
