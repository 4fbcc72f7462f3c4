"""Commands that show a run say of a dry run that it was one, and health warns of those in production."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from tests.core.cli.support import Jobdeck
from tests.support.health import announce
from tests.support.queue import Connection

TYPE = "cli_echo"
SAID = "succeeded, dry run"


@pytest.fixture
def series(conn: Connection) -> UUID:
    """A recurring job whose last run was dry, though its payload did not ask for it."""
    job = conn.add(TYPE, recurrence_interval_minutes=60)
    conn.run_once([TYPE], dry_run=True)
    return job.id


@pytest.mark.slow
def test_each_list_and_each_page_of_a_job_says_it_in_words(jobdeck: Jobdeck, series: UUID) -> None:
    for arguments in (["jobs"], ["job", str(series)], ["runs"], ["series"], ["status"]):
        assert SAID in jobdeck(*arguments).out, arguments
    assert "Its last run was a dry run: it changed nothing." in jobdeck("why", str(series)).out
    assert "1 dry run" in jobdeck("digest").out


def test_the_status_of_a_job_that_left_the_queue_says_it(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add(TYPE)
    conn.run_once([TYPE], dry_run=True)
    assert f"{SAID}, removed" in jobdeck("jobs", "--status", "succeeded").out


@pytest.mark.slow
def test_the_json_has_it_as_a_field(jobdeck: Jobdeck, series: UUID) -> None:
    assert [job["last_run_dry"] for job in jobdeck("jobs", "--json").data["jobs"]] == [True]
    assert jobdeck("job", str(series), "--json").data["last_run_dry"] is True
    assert [run["dry_run"] for run in jobdeck("runs", "--json").data["runs"]] == [True]
    assert [one["last_run_dry"] for one in jobdeck("series", "--json").data["series"]] == [True]
    assert jobdeck("why", str(series), "--json").data["last_run_dry"] is True
    assert jobdeck("status", "--json").data["recent_runs"] == [
        {"task_type": TYPE, "outcome": "succeeded", "dry_run": True, "count": 1}
    ]


@pytest.mark.slow
def test_a_real_run_is_shown_without_it(jobdeck: Jobdeck, conn: Connection) -> None:
    job = conn.add(TYPE, recurrence_interval_minutes=60)
    conn.run_once([TYPE])
    for arguments in (["jobs"], ["job", str(job.id)], ["runs"], ["series"], ["status"], ["why", str(job.id)]):
        assert "dry" not in jobdeck(*arguments).out, arguments


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "warns"), [("production", True), ("staging", False)])
def test_health_warns_in_production_while_a_series_runs_dry(
    jobdeck: Jobdeck, conn: Connection, series: UUID, monkeypatch: pytest.MonkeyPatch, environment: str, warns: bool
) -> None:
    monkeypatch.setenv("JOBDECK_ENV", environment)
    announce(conn, types=[TYPE])
    found = [one for one in jobdeck("health", "--json").data["findings"] if one["signal"] == "dry runs"]
    assert [one["verdict"] for one in found] == ["warning"] * warns
    if warns:
        assert found[0]["evidence"].startswith("1 recurring job runs dry in production and changes nothing: cli_echo.")
    for command in ("status", "digest"):
        verdict = re.search(r"^(?:verdict|now) +(\w+)", jobdeck(command).out, re.MULTILINE)
        assert verdict is not None
        assert verdict[1] == ("warning" if warns else "ok"), command
    conn.execute("UPDATE job_queue SET run_at = now() WHERE id = %s", (series,))
    conn.run_once([TYPE])
    assert jobdeck("health", "--json").data["verdict"] == "ok"
