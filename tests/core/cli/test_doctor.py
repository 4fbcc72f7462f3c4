"""`doctor`: each thing that can be wrong under the queue is named."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from jobdeck.core.schema import install_schema
from tests.core.cli.support import Jobdeck
from tests.support.health import announce
from tests.support.queue import Connection


def verdicts(jobdeck: Jobdeck) -> dict[str, tuple[str, str]]:
    return {
        found["signal"]: (found["verdict"], found["evidence"]) for found in jobdeck("doctor", "--json").data["findings"]
    }


@pytest.mark.slow
def test_a_sound_database_is_exit_code_0(jobdeck: Jobdeck) -> None:
    assert jobdeck("doctor").code == 0
    found = verdicts(jobdeck)
    for signal in ("server", "LISTEN", "pooler", "clock", "schema", "rights", "indexes", "dead rows", "transactions"):
        assert found[signal][0] == "ok", found[signal]


@pytest.mark.slow
def test_a_declared_series_whose_type_was_removed_with_its_schedule_is_named_before_it_is_due(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    daily = {
        "name": "nightly",
        "task_type": "nightly",
        "payload": {},
        "schedule": {"seconds": 86_400},
        "max_attempts": 5,
    }
    conn.execute("SELECT job_series_declare('{nightly}', %s, 'worker')", [Jsonb([daily])])
    [(series,)] = conn.execute("UPDATE job_queue SET run_at = now() + interval '9 hours' RETURNING id").fetchall()
    assert "series" not in verdicts(jobdeck), "no worker is there, so none lacks the type"
    announce(conn)
    verdict, evidence = verdicts(jobdeck)["series"]
    assert verdict == "warning"
    assert evidence == (
        "1 series that a program declared has a type that no live worker handles: nightly. Start a worker that does. "
        f"If the program has the type no more, cancel the series: `jobdeck cancel {series.hex[-8:]}`."
    )
    announce(conn, types=["nightly"])
    assert "series" not in verdicts(jobdeck)
    announce(conn)
    assert "series" in verdicts(jobdeck)
    assert jobdeck("cancel", series.hex[-8:]).code == 0
    assert "series" not in verdicts(jobdeck), "what the sentence advises ends it"
    assert conn.execute("SELECT status FROM job_queue").fetchall() == [("cancelled",)]


@pytest.mark.slow
def test_a_missing_index_is_named(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("DROP INDEX job_queue_claimable")
    assert jobdeck("doctor").code == 4
    verdict, evidence = verdicts(jobdeck)["indexes"]
    assert verdict == "critical"
    assert "job_queue_claimable" in evidence


@pytest.mark.slow
def test_an_invalid_index_is_named(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'job_queue_claimable'::regclass")
    assert jobdeck("doctor").code == 4
    assert "job_queue_claimable (invalid)" in verdicts(jobdeck)["indexes"][1]


def test_a_missing_schema_is_critical_and_the_rest_is_still_looked_at(
    jobdeck: Jobdeck, empty_database_url: str
) -> None:
    ran = jobdeck("doctor", "--database-url", empty_database_url)
    assert ran.code == 4
    assert "jobdeck init" in ran.out
    assert "LISTEN" in ran.out


@pytest.mark.slow
def test_a_sequence_of_run_tokens_behind_the_history_is_named_and_an_installation_moves_it_on(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    for _ in range(3):
        conn.add()
        conn.run_once()
    conn.add()
    conn.execute("SELECT setval('job_run_token_seq', 1)")
    stuck = conn.claim_one()
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.finish_one(stuck)
    assert jobdeck("doctor").code == 4
    assert "`jobdeck init`" in verdicts(jobdeck)["run tokens"][1]
    install_schema(conn)
    assert "run tokens" not in verdicts(jobdeck)
    assert conn.lose().lost == 1
    conn.advance(timedelta(hours=2))
    assert conn.finish_one(conn.claim_one()).recorded == "succeeded"


@pytest.fixture
def no_roles(conn: Connection) -> None:
    """An installation whose group roles do not exist."""
    conn.execute("CREATE OR REPLACE FUNCTION job_roles_prefix() RETURNS text LANGUAGE sql IMMUTABLE RETURN 'absent_'")


@pytest.fixture
def account(conn: Connection) -> Iterator[str]:
    """An account that can sign in, without any right."""
    name = f"test_app_{uuid.uuid4().hex[:8]}"
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name
    conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


@pytest.mark.slow
@pytest.mark.usefixtures("no_roles", "account")
def test_missing_roles_are_no_warning_where_only_the_owner_may_change_jobs(jobdeck: Jobdeck) -> None:
    verdict, evidence = verdicts(jobdeck)["roles"]
    assert verdict == "ok"
    assert "init --roles" in evidence


@pytest.mark.slow
@pytest.mark.usefixtures("no_roles")
def test_missing_roles_are_a_warning_where_another_account_may_change_jobs(
    jobdeck: Jobdeck, conn: Connection, account: str
) -> None:
    conn.execute(sql.SQL("GRANT UPDATE ON job_queue TO {}").format(sql.Identifier(account)))
    verdict, evidence = verdicts(jobdeck)["roles"]
    assert verdict == "warning"
    assert account in evidence
    assert "init --roles" in evidence


@pytest.mark.slow
def test_the_oldest_open_transaction_is_named_with_its_application(
    jobdeck: Jobdeck, conn: Connection, database_url: str
) -> None:
    with Connection.connect(database_url, application_name="forgotten \x1b[31m report") as other:
        other.execute("SELECT 1 FROM job_queue")
        verdict, evidence = verdicts(jobdeck)["transactions"]
        assert verdict == "ok"
        assert f"pid {other.info.backend_pid}" in evidence
        assert "forgotten" in evidence
        assert "\x1b" not in jobdeck("doctor").out


@pytest.mark.parametrize(
    ("variables", "verdict", "word"),
    [
        ({}, "warning", "dry run"),
        ({"GAME_PLATFORM_INTEGRATION_ENABLED": "true"}, "critical", "GAME_PLATFORM_API_TOKEN"),
        (
            {"GAME_PLATFORM_INTEGRATION_ENABLED": "true", "GAME_PLATFORM_API_TOKEN": "hunter2"},
            "ok",
            "https://api.metactf.com",
        ),
    ],
)
@pytest.mark.slow
def test_the_vendors_configuration_is_judged_without_telling_secrets(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], verdict: str, word: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = jobdeck("doctor", "--json")
    assert ran.code == (4 if verdict == "critical" else 0)
    assert "hunter2" not in ran.out + ran.err
    found = verdicts(jobdeck)["game platform"]
    assert found[0] == verdict
    assert word in found[1]


def test_a_pooler_is_noticed(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobdeck.core.postgres.address.POOLER_PORT", psycopg.conninfo.conninfo_to_dict("").get("port"))
    assert verdicts(jobdeck)["pooler"][0] in {"ok", "warning"}
