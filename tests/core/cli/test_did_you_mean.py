"""A word that commands do not know is refused with the nearest one, and nothing is changed."""

from __future__ import annotations

import pytest

from jobdeck.core.queue import operator
from tests.core.cli.support import Jobdeck, enqueued
from tests.support.queue import Connection


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("statu", 'Unknown command "statu"; did you mean "status"?'),
        ("bulk sho", 'Unknown command "sho"; did you mean "show"?'),
        ("xyzzy", 'Unknown command "xyzzy".'),
        ("jobs --statu failed", 'Unknown option "--statu"; did you mean "--status"?'),
        ("jobs --status faild", 'unknown word "faild"; did you mean "failed"?'),
        ("jobs --sort creatd", 'unknown word "creatd"; did you mean "created"?'),
        ("enqueue cli_eko", 'Unknown task type "cli_eko"; did you mean "cli_echo"?'),
        ("jobs --filter statu:failed", 'Unknown filter key "statu"; did you mean "status"?'),
        ("jobs --filter status:faild", 'Unknown status "faild"; did you mean "failed"?'),
        ("quick-sync ful", 'unknown word "ful"; did you mean "full"?'),
    ],
)
def test_an_unknown_word_is_refused_with_the_nearest_one(
    jobdeck: Jobdeck, conn: Connection, line: str, said: str
) -> None:
    with conn.changes_nothing():
        ran = jobdeck(*line.split())
        assert ran.code in {1, 2}
        ran.refused(ran.code, said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "--type", "cli_ecko"],
        ["jobs", "--filter", "type:cli_ecko"],
        ["runs", "--type", "cli_ecko"],
        ["cancel", "--filter", "type:cli_ecko"],
        ["delete", "--filter", "type:cli_ecko", "--yes"],
    ],
)
def test_a_filter_with_an_unknown_type_is_refused(jobdeck: Jobdeck, conn: Connection, arguments: list[str]) -> None:
    enqueued(conn)
    with conn.changes_nothing():
        jobdeck(*arguments).refused(2, 'Unknown task type "cli_ecko"; did you mean "cli_echo"?')


def test_the_nearest_type_may_be_one_that_only_the_database_knows(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn, "webhook_push")
    jobdeck("jobs", "--type", "webhok_push").refused(2, 'did you mean "webhook_push"?')


def test_a_type_without_a_handler_is_known_while_the_database_holds_it(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, "webhook_push")
    assert jobdeck("jobs", "--type", "webhook", "--status", "failed").out == "No jobs.\n"
    conn.finish_one(conn.claim_one(["webhook_push"]))
    operator.delete(conn, [job], actor="test")
    assert jobdeck("cancel", "--filter", "type:webhook_push").out == "No job matches.\n"


def test_a_part_of_a_known_type_is_no_mistake_in_a_filter(jobdeck: Jobdeck) -> None:
    assert jobdeck("jobs", "--type", "ech").out == "No jobs.\n"
    assert jobdeck("jobs", "--filter", "type:CLI_").out == "No jobs.\n"


def test_a_hostile_type_is_refused_in_one_harmless_sentence(jobdeck: Jobdeck) -> None:
    ran = jobdeck("jobs", "--type", "x\x1b[31m\ny")
    ran.refused(2, "Unknown task type")
    assert "\x1b" not in ran.err
