"""`producers`: making, listing and revoking the producers that enqueue over HTTP, and who may."""

from __future__ import annotations

from typing import Any

import pytest

from jobdeck.core.queue.producers import tokens
from tests.core.cli.support import Jobdeck, everything
from tests.support.people import People
from tests.support.queue import ACTOR, Connection

ADD = ["producers", "add", "shop", "--types", "cli_echo, cli_echo,other", "--rate", "60/min"]


@pytest.mark.slow
def test_a_producer_is_made_shown_once_listed_and_revoked(jobdeck: Jobdeck, conn: Connection) -> None:
    made = jobdeck(*ADD)
    *words, token = made.out.splitlines()
    assert words == ["The producer shop is created: 60 jobs per min.", "Its token, which is not shown again:"]
    assert "registers other" in made.err
    assert bytes(conn.value("SELECT token_hash FROM job_producers")) == tokens.hashed(token)
    assert len(token) >= 43
    table = jobdeck("producers", "list").out
    assert "shop" in table
    assert "cli_echo, other" in table
    assert "never" in table
    assert token not in table + jobdeck("producers", "list", "--json").out + jobdeck("audit", "--json").out
    (listed,) = jobdeck("producers", "list", "--json").data["producers"]
    assert (listed["name"], listed["task_types"], listed["jobs"], listed["per_seconds"]) == (
        "shop", ["cli_echo", "other"], 60, 60,
    )  # fmt: skip
    assert jobdeck("producers", "revoke", "shop").out == "The producer shop is revoked.\n"
    assert jobdeck("producers", "list").out == "No producers.\n"


def test_each_change_is_in_the_audit_without_the_token(jobdeck: Jobdeck, conn: Connection) -> None:
    first = jobdeck(*ADD, "--json").data["token"]
    second = jobdeck(*ADD[:-1], "5/h", "--replace", "--json").data["token"]
    jobdeck("producers", "revoke", "shop")
    told = conn.rows("SELECT action, actor, before, after FROM job_audit ORDER BY id")
    facts = {"name": "shop", "types": ["cli_echo", "other"], "jobs": 60, "perSeconds": 60}
    slow = {**facts, "jobs": 5, "perSeconds": 3600}
    assert [(one["action"], one["before"], one["after"]) for one in told] == [
        ("add producer", None, facts), ("replace producer", facts, slow), ("revoke producer", slow, None),
    ]  # fmt: skip
    assert all(one["actor"].endswith("(jobdeck)") for one in told)
    assert first != second
    assert not {first, second} & set(str(told).split("'"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([*ADD[:-1], "60"], 2, "like 60/min"),
        ([*ADD[:-1], "60/fortnight"], 2, "like 60/min"),
        ([*ADD[:-1], "-1/min"], 2, "like 60/min"),
        ([*ADD[:-1], "0/min"], 1, "A rate is 1 to 1,000,000 jobs"),
        (["producers", "add", "a b", *ADD[3:]], 1, "1 to 63 characters"),
        (["producers", "add", "till", "--types", " , ", "--rate", "1/s"], 1, "1 to 200 task types"),
        (["producers", "add", "till", *ADD[3:], "--replace"], 1, "There is no producer till"),
        (["producers", "revoke", "till"], 1, "There is no producer till"),
        (ADD, 1, "There is a producer shop already"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: str
) -> None:
    tokens.add(conn, "shop", ["cli_echo"], tokens.Rate(1, 60), actor=ACTOR)
    with conn.changes_nothing():
        jobdeck(*arguments).refused(code, words)


def test_a_dry_run_shows_no_token_and_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    before = everything(conn)
    tried = jobdeck(*ADD, "--dry-run", "--json").data
    assert (tried["token"], tried["dry_run"], everything(conn)) == (None, True, before)
    jobdeck(*ADD)
    before = everything(conn)
    assert jobdeck("producers", "revoke", "shop", "--dry-run").out == "The producer shop would be revoked.\n"
    assert everything(conn) == before
    assert len(conn.audit_rows()) == 1


@pytest.mark.parametrize("group", ["job_viewer", "job_operator", "job_worker"])
def test_only_the_owner_manages_them_and_the_groups_list_them(
    jobdeck: Jobdeck,
    conn: Connection,
    people: People,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
) -> None:
    tokens.add(conn, "shop", ["cli_echo"], tokens.Rate(1, 60), actor=ACTOR)
    before: Any = everything(conn)
    monkeypatch.setenv("DATABASE_URL", people.address(database_url, group))
    for arguments in (["producers", "add", "till", *ADD[3:]], ["producers", "revoke", "shop"]):
        jobdeck(*arguments).refused(1, "Only the owner of the tables may", group)
    assert jobdeck("producers", "list", "--json").data["producers"][0]["name"] == "shop"
    assert everything(conn) == before
