"""A paused queue: it holds all types with its label, also those that get it later."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import Verdict
from jobdeck.core.queue import leases, operator, presence
from jobdeck.core.read import jobs
from jobdeck.core.read.report_types import Clause
from jobdeck.core.read.type_settings import type_lines
from jobdeck.core.registry.code_values import CodeValues
from jobdeck.core.words.plain import pauses
from tests.support.health import announce, findings
from tests.support.queue import ACTOR, WORKER, Connection  # fmt: skip
from tests.support.working import job_type


@pytest.fixture
def mail(conn: Connection) -> Connection:
    """The types alpha and beta in the queue mail, with a worker and a due job of each; gamma is in no queue."""
    for task_type in ("alpha", "beta"):
        label(conn, task_type, "mail")
    announce(conn, types=("alpha", "beta", "gamma"))
    for task_type in ("alpha", "beta", "gamma"):
        conn.add(task_type=task_type)
    return conn


def label(conn: Connection, task_type: str, queue: str | None) -> None:
    operator.set_type(conn, task_type, changes={"queue": queue}, actor=ACTOR, reason=None)


def pause(conn: Connection, queue: str = "mail", **given: Any) -> None:
    operator.pause(conn, queue=queue, reason="relay is down", actor=ACTOR, **given)


def written(conn: Connection, name: str, time: str) -> None:
    """Sets a time of the pause."""
    statement = "UPDATE job_paused_queues SET {} = {} WHERE queue = 'mail'"
    conn.execute(statement.format(name, time).encode())


def claimed(conn: Connection) -> list[str]:
    return sorted(job.task_type for job in conn.claim(["alpha", "beta", "gamma"]))


def type_clause(conn: Connection, task_type: str) -> Clause:
    (row,) = conn.rows("SELECT id FROM job_queue WHERE task_type = %s", task_type)
    return next(one for one in jobs.why(row["id"]).run(conn) if one.name == "type not paused")


def test_its_types_are_not_claimed_and_others_are(mail: Connection) -> None:
    pause(mail)
    assert claimed(mail) == ["gamma"]
    assert leases.next_due(mail, ["alpha", "beta"])[1] is None
    operator.resume(mail, queue="mail", actor=ACTOR)
    assert claimed(mail) == ["alpha", "beta"]


def test_a_type_that_joins_is_paused_and_one_that_leaves_is_not(mail: Connection) -> None:
    pause(mail)
    label(mail, "gamma", "mail")
    label(mail, "alpha", None)
    assert claimed(mail) == ["alpha"]


def test_a_type_that_the_code_puts_into_it_is_paused(mail: Connection) -> None:
    pause(mail)
    gamma = job_type("gamma", lambda _params, _ctx: None, values=CodeValues(queue="mail"))
    presence.declare_values(mail, [gamma], release="1.0", worker_id=WORKER)
    assert claimed(mail) == []


def test_default_holds_the_types_without_a_queue_and_without_settings(mail: Connection) -> None:
    pause(mail, "default")
    assert claimed(mail) == ["alpha", "beta"]
    assert [one.task_type for one in jobs.processing().run(mail).paused_types] == ["gamma"]


def test_why_names_the_queue_and_since_when_and_why(mail: Connection) -> None:
    pause(mail)
    clause = type_clause(mail, "alpha")
    assert (clause.holds, clause.code) == (False, "queue-paused")
    assert clause.evidence.startswith("The queue mail has been paused since")
    assert clause.evidence.endswith(": relay is down.")
    assert type_clause(mail, "gamma").holds
    operator.pause(mail, reason="bad data", actor=ACTOR, task_type="alpha")
    assert type_clause(mail, "alpha").code == "type-paused"


def test_its_end_comes_by_itself(mail: Connection) -> None:
    pause(mail, resume_at=mail.now() + timedelta(minutes=10))
    assert claimed(mail) == ["gamma"]
    written(mail, "resume_at", "now() - interval '1 second'")
    assert claimed(mail) == ["alpha", "beta"]
    mail.reap()
    assert jobs.processing().run(mail).paused_queues == ()
    assert [row["actor"].split(" ")[0] for row in mail.audit_rows() if row["action"] == "resume"] == ["automatic"]


def test_resuming_one_of_its_types_is_refused_with_the_queue(mail: Connection) -> None:
    pause(mail)
    with (
        mail.changes_nothing(),
        pytest.raises(Refused, match=r"alpha is paused with its queue mail.*resume --queue mail"),
    ):
        operator.resume(mail, actor=ACTOR, task_type="alpha")


def test_a_type_that_is_paused_by_itself_too_stays_paused(mail: Connection) -> None:
    operator.pause(mail, reason="bad data", actor=ACTOR, task_type="alpha")
    pause(mail)
    operator.resume(mail, queue="mail", actor=ACTOR)
    assert claimed(mail) == ["beta", "gamma"]


def test_the_audit_has_the_queue_with_the_reason(mail: Connection) -> None:
    pause(mail)
    operator.resume(mail, queue="mail", actor=ACTOR)
    actions = [row for row in mail.audit_rows() if row["action"] in {"pause", "resume"}]
    told = [(row["action"], row["after"]["queue"], row["reason"]) for row in actions if "queue" in row["after"]]
    assert told == [("pause", "mail", "relay is down"), ("resume", "mail", None)]


@pytest.mark.parametrize("queue", ["mial", "", "mail; drop"])
def test_a_queue_that_no_type_has_is_refused_with_those_that_exist(mail: Connection, queue: str) -> None:
    with (
        mail.changes_nothing(),
        pytest.raises(Refused, match=r"No task type is in the queue .*queues are default, mail\."),
    ):
        pause(mail, queue)


def test_a_queue_that_is_not_paused_cannot_be_resumed(mail: Connection) -> None:
    with mail.changes_nothing(), pytest.raises(Refused, match="The queue mail is not paused"):
        operator.resume(mail, queue="mail", actor=ACTOR)


def test_a_pause_that_ends_in_the_past_is_refused(mail: Connection) -> None:
    with mail.changes_nothing(), pytest.raises(Refused, match="in the past"):
        pause(mail, resume_at=mail.now() - timedelta(minutes=1))


def test_a_queue_whose_types_have_all_left_is_still_named_and_can_be_resumed(mail: Connection) -> None:
    pause(mail)
    for task_type in ("alpha", "beta"):
        label(mail, task_type, None)
    assert [one.task_type for one in pauses(jobs.processing().run(mail))] == ["queue mail"]
    operator.resume(mail, queue="mail", actor=ACTOR)
    assert pauses(jobs.processing().run(mail)) == ()


def test_the_figures_of_its_types_name_it(mail: Connection) -> None:
    pause(mail)
    found = {one.task_type: (one.paused_queue, one.paused_reason) for one in type_lines().run(mail)}
    assert found["alpha"] == found["beta"] == ("mail", "relay is down")
    assert found["gamma"] == (None, None)


def test_health_says_of_a_pause_that_is_forgotten_that_it_is_the_queues(mail: Connection) -> None:
    pause(mail)
    written(mail, "paused_at", "now() - interval '2 days'")
    found = findings(mail, "cannot run")
    assert {one.verdict for one in found} == {Verdict.WARNING}
    assert all("its queue mail was paused" in one.evidence for one in found)
    assert all("`jobdeck resume --queue mail` resumes it." in one.evidence for one in found)


def test_a_canary_runs_all_the_same(mail: Connection) -> None:
    pause(mail)
    job_id = mail.value("SELECT id FROM job_queue WHERE task_type = 'alpha'")
    operator.ask_canary(mail, job_id, actor=ACTOR)
    assert [job.id for job in mail.claim(["alpha"])] == [job_id]
