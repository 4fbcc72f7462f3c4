"""A filter names a coach by a part of the name: what fits nobody is refused, and is not an empty list of jobs."""

from __future__ import annotations

from uuid import UUID

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.core.cli.support import Jobdeck
from tests.support.queue import Connection

pytestmark = pytest.mark.competition

KIM = UUID("5d0c7f6a-8a55-4e4e-9a0e-000000000001")
LIND = UUID("abcd7f6a-8a55-4e4e-9a0e-000000000002")
KIMURA = UUID("6e0c7f6a-8a55-4e4e-9a0e-000000000003")
GONE = UUID("7f0c7f6a-8a55-4e4e-9a0e-000000000004")
"""A coach who has jobs and is not there any more."""

COMMANDS = pytest.mark.parametrize(
    "command", [["jobs"], ["retry", "--dry-run"], ["cancel", "--yes"], ["edit", "--set", "message=x", "--yes"],
                ["cancel", "--yes", "--detach"]],
    ids=" ".join,
)  # fmt: skip


@pytest.fixture
def jobs(conn: Connection) -> dict[UUID, UUID]:
    """A job of each coach, by the coach."""
    for coach, name in ((KIM, "Amara Kim"), (LIND, "Bo Lind"), (KIMURA, "Cato Kimura")):
        first, last = name.split()
        conn.insert("profiles", id=coach, role="coach", full_name=name, first_name=first, last_name=last)
    return {
        coach: producer.enqueue(conn, NewJob("cli_echo", {"coachId": str(coach)}), actor="test").job_id
        for coach in (KIM, LIND, KIMURA, GONE)
    }


def listed(jobdeck: Jobdeck, wanted: str) -> set[str]:
    return {job["id"] for job in jobdeck("jobs", "--json", "--filter", wanted).data["jobs"]}


@pytest.mark.parametrize("words", ["coach:lind", 'coach:"Bo Lind"', "coach:abcd", "coach:abcd7f6a", f"coach:{LIND}"])
def test_a_name_or_an_id_of_one_coach_finds_the_jobs(jobdeck: Jobdeck, jobs: dict[UUID, UUID], words: str) -> None:
    assert listed(jobdeck, words) == {str(jobs[LIND])}


@COMMANDS
def test_a_name_that_fits_nobody_is_bad_input_and_changes_nothing(
    jobdeck: Jobdeck, conn: Connection, jobs: dict[UUID, UUID], command: list[str]
) -> None:
    with conn.changes_nothing():
        jobdeck(*command, "--filter", "coach:Nobody").refused(
            2, 'No coach was found for "Nobody"', "part of a coach's name"
        )


@COMMANDS
def test_a_name_that_fits_several_is_refused_with_their_ids_and_without_their_names(
    jobdeck: Jobdeck, conn: Connection, jobs: dict[UUID, UUID], command: list[str]
) -> None:
    with conn.changes_nothing():
        ran = jobdeck(*command, "--filter", "coach:kim")
        ran.refused(2, '2 coaches fit "kim"', str(KIM), str(KIMURA))
        assert "Amara" not in ran.err


def test_an_action_by_name_is_done_to_that_coachs_jobs(jobdeck: Jobdeck, jobs: dict[UUID, UUID]) -> None:
    assert [one["id"] for one in jobdeck("cancel", "--json", "--filter", "coach:lind").data["results"]] == [
        str(jobs[LIND])
    ]


@pytest.mark.slow
def test_the_id_of_a_coach_who_is_gone_still_finds_the_jobs(jobdeck: Jobdeck, jobs: dict[UUID, UUID]) -> None:
    assert listed(jobdeck, f"coach:{GONE}") == listed(jobdeck, "coach:7f0c") == {str(jobs[GONE])}
    assert jobdeck("jobs", "--filter", "coach:9999").out == "No jobs.\n"
