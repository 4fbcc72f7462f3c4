"""`jobdeck fleet`, and what the other commands say to several databases."""

from __future__ import annotations

import json

import pytest

from tests.core.cli.support import Jobdeck
from tests.support.queue import Connection

AWAY = "postgresql://bob:hunter2@127.0.0.1:1/gone"


@pytest.fixture
def healthy(conn: Connection) -> None:
    conn.execute(
        "INSERT INTO job_workers (id, host, pid, mode, version, concurrency, task_types)"
        " VALUES ('w', 'h', 1, 'worker', '0', 1, '{a}')"
    )
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() + interval '1 hour'")


@pytest.mark.usefixtures("healthy")
def test_the_worst_database_is_first_and_its_exit_code_counts(
    jobdeck: Jobdeck, database_url: str, empty_database_url: str
) -> None:
    good = jobdeck("fleet", "--database-url", database_url)
    assert good.code == 0
    assert [word in good.out for word in ("DATABASE", "STATE", "PENDING", "FAILED", "WORKERS", "WAIT", " ok ")] == [
        True
    ] * 7
    ran = jobdeck("fleet", "--database-url", database_url, "--database-url", empty_database_url, "--database-url", AWAY)
    assert ran.code == 3
    states = [line.split()[1] for line in ran.out.splitlines()[1:4]]
    assert states == ["away", "unusable", "ok"]
    assert "holds no Jobdeck schema. Run `jobdeck init` to install it." in ran.out
    assert "hunter2" not in ran.out
    assert "bob" not in ran.out


@pytest.mark.slow
def test_a_critical_database_has_the_exit_code_of_health(jobdeck: Jobdeck, database_url: str, conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type, run_at) VALUES ('a', now() - interval '1 hour')")
    assert jobdeck("health").code == 4
    ran = jobdeck("--database-url", database_url, "--database-url", AWAY, "fleet", "--json")
    assert ran.code == 4
    away, critical = json.loads(ran.out)["databases"]
    assert (away["state"], away["address"], away["pending"]) == ("away", "127.0.0.1:1/gone", None)
    assert "does not answer" in away["problem"]
    assert (critical["state"], critical["pending"], critical["problem"]) == ("critical", 1, None)
    assert critical["oldest_due"] is not None
    health = json.loads(jobdeck("health", "--json").out)
    assert critical["evidence"][0]["evidence"] == health["findings"][0]["evidence"]


def test_the_databases_of_the_settings_are_shown_by_name(
    jobdeck: Jobdeck, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBDECK_DATABASES", json.dumps({"orders": database_url, "billing": AWAY}))
    names = [one["name"] for one in json.loads(jobdeck("fleet", "--json").out)["databases"]]
    assert names == ["billing", "orders"]


@pytest.mark.parametrize("command", [("status",), ("health",), ("retry", "x"), ("init",), ("completion", "bash")])
def test_every_other_command_refuses_two_databases(
    jobdeck: Jobdeck, database_url: str, command: tuple[str, ...]
) -> None:
    words = ("--database-url was given 2 times", "`jobdeck fleet` shows several databases")
    jobdeck("--database-url", database_url, *command, "--database-url", AWAY).refused(2, *words)


@pytest.mark.slow
def test_a_command_asks_which_of_the_listed_databases(
    jobdeck: Jobdeck, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBDECK_DATABASES", json.dumps({"orders": database_url, "billing": AWAY}))
    assert jobdeck("status").code == 0, "DATABASE_URL names one"
    monkeypatch.delenv("DATABASE_URL")
    jobdeck("status").refused(1, "JOBDECK_DATABASES lists several databases", "--database-url")
    assert jobdeck("status", "--database-url", database_url).code == 0


def test_a_fleet_without_databases_is_refused(jobdeck: Jobdeck) -> None:
    jobdeck("fleet").refused(2, "No databases are named.")
