"""`jobdeck runs --twice`, and what the hand-over says of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.core.cli.support import Jobdeck
from tests.support.people import People
from tests.support.queue import Connection

VERDICT = "1 job may have acted twice: a run was lost or late after it began, and another one began."


@pytest.fixture
def twice(conn: Connection) -> str:
    """A job whose first run was lost, after which a second one sent something. Returns its short id."""
    job = conn.add()
    conn.claim_one()
    conn.lose()
    conn.advance(timedelta(hours=1))
    conn.run_once(output={"sid": "SM1", "to": "mara@example.org"})
    for _ in range(2):
        conn.add(payload={"order": 1})
        conn.run_once()
    return job.id.hex[-8:]


@pytest.mark.slow
def test_the_verdict_comes_with_what_each_run_sent_and_jobs_with_the_same_content(jobdeck: Jobdeck, twice: str) -> None:
    lines = [" ".join(line.split()) for line in jobdeck("runs", "--twice").out.splitlines()]
    assert lines[:2] == [VERDICT, "2 jobs have one run that began."]
    assert lines[lines.index("Runs") + 1] == "BEGAN TOOK OUTCOME JOB TASK WORKER SENT"
    first, second = lines[lines.index("Runs") + 2 : lines.index("Runs") + 4]
    assert f" lost {twice} alpha worker-1 The lease of worker-1 expired" in first
    assert f" succeeded {twice} alpha worker-1 " in second
    assert '"sid": "SM1"' in second
    assert "mara@" not in second
    assert lines[lines.index("Same content") + 1].startswith("alpha: 2 jobs within ")


def test_its_json_has_the_sentences_the_figures_and_the_runs(jobdeck: Jobdeck, twice: str) -> None:
    data = jobdeck("runs", "--twice", "--type", "alpha", "--since", "7d", "--json").data
    assert data["sentences"][0] == VERDICT
    assert (data["lost"]["twice"], data["once"], data["again"]) == (1, 2, 0)
    assert [run["outcome"] for run in data["lost"]["runs"]] == ["lost", "succeeded"]
    assert data["lost"]["runs"][0]["job_id"].endswith(twice[-4:])
    assert [one["jobs"] for one in data["same"]] == [2]


@pytest.mark.slow
@pytest.mark.usefixtures("twice")
def test_who_may_not_see_payloads_reads_the_verdict_and_nothing_that_was_sent(
    jobdeck: Jobdeck, people: People, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", people.address(database_url, "job_viewer"))
    out = jobdeck("runs", "--twice").out
    assert VERDICT in out
    assert "are hidden from this role" in out
    assert "SM1" not in out + jobdeck("runs", "--twice", "--json").out


@pytest.mark.usefixtures("twice")
def test_the_hand_over_says_it_too(jobdeck: Jobdeck) -> None:
    assert VERDICT in jobdeck("digest", "--since", "7d").out
    assert f"- ran twice: {VERDICT}" in jobdeck("digest", "--since", "7d", "--markdown").out


def test_without_a_lost_run_no_job_may_have_acted_twice(jobdeck: Jobdeck) -> None:
    assert jobdeck("runs", "--twice").out == "No job may have acted twice: no run was lost.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--twice", "--outcome", "lost"), "--twice goes with --type and --since alone"),
        (("--since", "3h"), "--since needs --twice"),
        (("--twice", "--since", "soon"), "soon"),
    ],
)
def test_options_that_do_not_go_together_are_refused(jobdeck: Jobdeck, arguments: tuple[str, ...], words: str) -> None:
    jobdeck("runs", *arguments).refused(2, words)


def test_a_type_that_is_not_there_is_refused(jobdeck: Jobdeck) -> None:
    jobdeck("runs", "--twice", "--type", "alhpa").refused(2, "alhpa")
