"""What a command says to a role that may not do what was asked: what is missing, and who has it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.postgres import inspection
from tests.core.cli.support import Jobdeck
from tests.support.people import People
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

SignIn = Callable[[str | None], str]


@pytest.fixture
def as_member(people: People, database_url: str, monkeypatch: pytest.MonkeyPatch) -> SignIn:
    """Lets the commands that follow sign in as a member of a group; returns the role's name."""

    def sign_in(group: str | None) -> str:
        monkeypatch.setenv("DATABASE_URL", people.address(database_url, group))
        return people.name(group)

    return sign_in


@pytest.mark.slow
def test_a_worker_is_told_that_actions_take_an_operator(jobdeck: Jobdeck, as_member: SignIn) -> None:
    role = as_member("job_worker")
    for command in (("pause",), ("purge", "--yes")):
        jobdeck(*command).refused(1, role, "Only members of job_operator may; this role is a member of job_worker.")


@pytest.mark.parametrize(
    ("group", "statement", "holders"),
    [
        ("job_operator", "SELECT job_queue_reap(1, 1)", None),
        ("job_operator", "SELECT job_worker_remove('w')", ("job_worker",)),
        ("job_operator", "SELECT email FROM profiles", ("job_worker",)),
        ("job_worker", "DELETE FROM job_queue", ()),
        ("job_viewer", "SELECT * FROM job_queue", ("job_operator", "job_worker")),
    ],
)
def test_who_has_the_right_is_read_from_the_database(
    as_member: SignIn, database_url: str, group: str, statement: str, holders: tuple[str, ...] | None
) -> None:
    role = as_member(group)
    url = database_url.replace("//jobdeck@", f"//{role}@")
    with Connection.connect(url, autocommit=True) as conn:
        with pytest.raises(psycopg.Error) as refused:
            conn.execute(statement.encode())
        found = inspection.denial(conn, str(refused.value))
    assert (found.role, found.holders) == (role, holders)
    assert group in found.groups


def test_a_viewer_is_told_that_enqueueing_takes_an_operator_or_a_worker(jobdeck: Jobdeck, as_member: SignIn) -> None:
    as_member("job_viewer")
    jobdeck("enqueue", "cli_echo").refused(
        1, "Only members of job_operator or job_worker may; this role is a member of job_viewer."
    )


@pytest.mark.slow
def test_a_member_of_no_group_is_told_so(jobdeck: Jobdeck, as_member: SignIn) -> None:
    as_member(None)
    jobdeck("jobs").refused(
        1, "job_viewer", "this role is a member of none of job_viewer, job_operator, job_worker."
    )  # fmt: skip


@pytest.mark.slow
def test_doctor_says_that_a_role_cannot_see_the_transactions_of_others(
    jobdeck: Jobdeck, as_member: SignIn, postgres: PostgresServer, conn: Connection
) -> None:
    role = as_member("job_viewer")

    def transactions() -> str:
        findings = jobdeck("doctor", "--json").data["findings"]
        return str(next(found["evidence"] for found in findings if found["signal"] == "transactions"))

    with conn.transaction():
        conn.execute("SELECT FROM job_queue")
        assert transactions() == (
            "No other session that this role can see has an open transaction. This role cannot see the transactions of "
            "1 session; membership in pg_read_all_stats shows them."
        )
        with postgres.connect() as admin:
            admin.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(sql.Identifier(role)))
        assert f"pid {conn.info.backend_pid}" in transactions()
