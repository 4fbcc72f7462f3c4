"""`hold` and `release`: jobs that a value in their payload keeps from starting."""

from __future__ import annotations

import pytest

from jobdeck.core.queue.operators import holds
from tests.core.cli.support import Jobdeck
from tests.support.queue import ACTOR, Connection

TYPE = "cli_echo"


@pytest.mark.slow
def test_jobs_are_held_listed_and_released(jobdeck: Jobdeck, conn: Connection) -> None:
    held, free = conn.add(TYPE, payload={"id": 5}), conn.add(TYPE, payload={"id": "5"})
    ran = jobdeck("hold", TYPE, "id=5", "--reason", "INC-1", "--for", "2h")
    number = conn.value("SELECT number FROM job_holds")
    assert f"Hold {number} keeps {TYPE} by id until " in ran.out
    assert "1 job with this id waits" in ran.out
    assert [job.id for job in conn.claim([TYPE])] == [free.id]
    for arguments in (["hold"], ["status"]):
        out = jobdeck(*arguments).out
        (line,) = [one for one in out.splitlines() if "id=5" in one]
        assert line.split()[:4] == [str(number), TYPE, "id=5", "1"], arguments
        assert "INC-1" in line
    assert f"Hold {number} by id keeps it since" in jobdeck("why", str(held.id)).out
    assert f"hold {number}" in jobdeck("job", str(held.id)).out
    (entry,) = jobdeck("audit", "--json").data["audit"]
    assert (entry["action"], entry["after"]["hold"], entry["reason"]) == ("hold", number, "INC-1")
    assert jobdeck("release", str(number)).out == f"Hold {number} released: 1 job may start again.\n"
    assert jobdeck("hold").out == "No holds.\n"
    assert [job.id for job in conn.claim([TYPE])] == [held.id]


@pytest.mark.slow
def test_the_json_of_a_hold_has_its_payload_and_its_number(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add(TYPE, payload={"id": "c3"})
    made = jobdeck("hold", TYPE, "id=c3", "--json").data
    assert (made["jobs"], made["dry_run"]) == (1, False)
    for data in (jobdeck("hold", "--json").data, jobdeck("status", "--json").data):
        (one,) = data["holds"]
        assert (one["hold"], one["task_type"], one["payload"], one["jobs"]) == (made["hold"], TYPE, {"id": "c3"}, 1)
    assert jobdeck("release", str(made["hold"]), "--json").data == {"hold": made["hold"], "jobs": 1, "dry_run": False}


def test_a_dry_run_of_both_says_how_many_jobs_and_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add(TYPE, payload={"id": 5})
    with conn.changes_nothing():
        assert jobdeck("hold", TYPE, "id=5", "--dry-run").out == (
            f"Would hold {TYPE} by id: 1 job with this id waits.\n"
        )
    number = holds.begin(conn, TYPE, "id", 5, actor=ACTOR)
    list(holds.carry_out(conn, number))
    with conn.changes_nothing():
        assert jobdeck("release", str(number), "--dry-run").out == (
            f"Hold {number} would be released: 1 job may start again.\n"
        )


@pytest.mark.slow
def test_a_value_that_may_name_a_person_is_masked(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add(TYPE, payload={"email": "mara.long@example.org"})
    ran = jobdeck("hold", TYPE, "email=mara.long@example.org")
    told = [ran, *(jobdeck(*arguments) for arguments in (["hold"], ["hold", "--json"], ["status"], ["audit"]))]
    assert "mara.long" not in "".join(one.out + one.err for one in told)


def test_a_key_that_no_job_has_and_a_type_without_a_worker_are_held_and_it_is_said(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    conn.add(TYPE, payload={"id": 5})
    ran = jobdeck("hold", TYPE, "coachId=c3")
    assert ran.code == 0
    assert f"No waiting job of {TYPE} has the key coachId in its payload now." in ran.err
    assert f"No live worker handles {TYPE}. Its jobs wait until one does." in ran.err
    assert "0 jobs with this coachId wait" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["hold", TYPE], 2, "KEY=VALUE"),
        (["hold", TYPE, "id"], 2, "KEY=VALUE"),
        (["hold", TYPE, "=5"], 2, "KEY=VALUE"),
        (["hold", TYPE, "id=5", "--for", "2h", "--until", "tomorrow"], 2, "not both"),
        (["hold", "--reason", "x"], 2, "Give a TYPE"),
        (["hold", TYPE, "id=5", "--until", "2020-01-01"], 1, "in the past"),
        (["hold", "no_such_type", "id=5"], 1, "no_such_type"),
        (["hold", TYPE, "id=" + "x" * 1001], 1, "1,000 bytes"),
        (["hold", TYPE, "id=7"], 1, "keeps these jobs already"),
        (["release", "77"], 1, "no hold 77"),
        (["release", "x"], 2, "HOLD"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: str
) -> None:
    holds.begin(conn, TYPE, "id", 7, actor=ACTOR)
    with conn.changes_nothing():
        jobdeck(*arguments).refused(code, words)
