"""`jobdeck errors GROUP`: what the runs of a group have more often than all runs of their type."""

from __future__ import annotations

import pytest

from tests.core.cli.support import Jobdeck
from tests.support.failed_runs import ERROR, of_coach, ran
from tests.support.people import People
from tests.support.queue import Connection


@pytest.mark.slow
def test_a_group_shows_the_value_that_is_odd_and_the_keys_that_are_not(jobdeck: Jobdeck, conn: Connection) -> None:
    of_coach(conn)
    answer = jobdeck("errors", ERROR[:4])
    assert "Facets: 21 of 21 runs read" in answer.out
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert "coachId bad 100 % 10 %" in lines
    assert "No pattern in: division, worker, attempt (first tries 100 %)." in lines
    (group,) = jobdeck("errors", ERROR, "--json").data["errors"]
    odd = {"key": "coachId", "kind": "payload", "share": 1.0, "usual_share": 0.1, "value": "bad"}
    assert group["facets"] == {"read": 21, "odd": [odd], "usual": ["division", "worker", "attempt"]}


@pytest.mark.slow
def test_who_may_not_see_payloads_reads_one_value(
    jobdeck: Jobdeck, conn: Connection, people: People, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_coach(conn)
    monkeypatch.setenv("DATABASE_URL", people.address(database_url, "job_viewer"))
    answer = jobdeck("errors", ERROR)
    assert "coachId one value 100 % 10 %" in [" ".join(line.split()) for line in answer.out.splitlines()]
    assert "bad" not in answer.out + jobdeck("errors", ERROR, "--json").out


@pytest.mark.slow
def test_a_value_is_masked_as_in_a_payload(jobdeck: Jobdeck, conn: Connection) -> None:
    ran(conn, 30, {})
    ran(conn, 20, {"who": "mara@example.org", "phone": "+1 202 555 0143", "o": {"deep": ["\x1b[31m" * 200]}}, "failed")
    out = jobdeck("errors", ERROR).out + jobdeck("errors", ERROR, "--json").out
    assert "phone" in out
    assert "mara@" not in out
    assert "555 0143" not in out  # the digits alone may be in a time
    assert "\x1b" not in out


def test_a_group_that_is_not_there_is_refused(jobdeck: Jobdeck) -> None:
    jobdeck("errors", "abc").refused(1, "No group of errors of the last 7d begins with abc")


@pytest.mark.slow
def test_the_jobs_of_a_filter_show_their_facets(jobdeck: Jobdeck, conn: Connection) -> None:
    of_coach(conn)
    for number in range(12):
        conn.add("push", payload={"coachId": "c3", "n": number})
    answer = jobdeck("jobs", "--filter", "type:push", "--facets")
    assert "Facets of push: 12 jobs read" in answer.out
    assert "coachId c3 100 % 10 %" in [" ".join(line.split()) for line in answer.out.splitlines()]
    facets = jobdeck("jobs", "--facets", "--json").data["facets"]["push"]
    assert [(one["key"], one["value"]) for one in facets["odd"]] == [("coachId", "c3")]


def test_a_filter_that_matches_nothing_has_no_facets(jobdeck: Jobdeck) -> None:
    assert jobdeck("jobs", "--filter", "status:failed", "--facets").out == "No jobs.\n"
    assert jobdeck("jobs", "--facets", "--json").data["facets"] == {}
