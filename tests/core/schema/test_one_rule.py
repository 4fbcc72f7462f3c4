"""The conditions that stand more than once, each compared with the one function that is the rule.

Postgres uses a partial index only where a query has its condition, so some conditions are in an index, in queries, and
in a clause of the claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from jobdeck.core.model import LEAST_PRIORITY, MOST_PRIORITY
from jobdeck.core.schema.components import sql_folder
from tests.support.queue import Connection

COLUMNS: Final = ("status", "blocked_by", "in_line")
END: Final = re.compile(
    r"\b(order by|group by|limit|for update|union|returning|on conflict|window|having|loop|offset|then)\b|;|\)"
)
CALL: Final = re.compile(r"\b(job_clause_\w+)\(([^()]*)\)")
OPENING: Final = re.compile(r"\(|\bcase\b")
CLOSING: Final = re.compile(r"\)|\bend\b")


def rule(conn: Connection, function: str) -> str:
    """The expression of a function, with the columns in place of its parameters."""
    (row,) = conn.rows("SELECT pg_get_function_sqlbody(oid) AS body FROM pg_proc WHERE proname = %s", function)
    return re.sub(r"\(?\bp_job\)?\.|\bp_", "", row["body"].removeprefix("RETURN "))


def plain(condition: str) -> str:
    """The condition in one way of writing: no aliases, casts of constants, line ends and outer parentheses."""
    text = re.sub(r"::text\b", "", condition.lower())
    text = re.sub(r"\b[a-z_]\w*\.(?=[a-z])", "", text)
    text = re.sub(r"\((\w+ is (?:not )?null)\)", r"\1", re.sub(r"\s+", " ", text).strip())
    while text.startswith("(") and length(text) == len(text):
        text = text[1:-1].strip()
    return text


def length(text: str) -> int:
    """The length of the parenthesis with which a text begins."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return place + 1
    raise AssertionError(text)


def conjuncts(condition: str) -> frozenset[str]:
    """The parts of a condition that are joined by "and", down through parentheses."""
    text = plain(condition)
    parts, depth, begin, place, between = [], 0, 0, 0, False
    while place < len(text):
        if text[place] == "'":
            place = text.index("'", place + 1)
        elif OPENING.match(text, place):
            depth += 1
        elif CLOSING.match(text, place):
            depth -= 1
        elif depth == 0 and text.startswith(" or ", place):
            return frozenset({text})
        elif depth == 0 and text.startswith("between ", place):
            between = True
        elif depth == 0 and text.startswith(" and ", place):
            if not between:
                parts.append(text[begin:place])
                begin = place + 5
            between = False
        place += 1
    parts.append(text[begin:])
    return frozenset(parts) if len(parts) == 1 else frozenset().union(*(conjuncts(part) for part in parts))


def wheres(text: str) -> Iterator[str]:
    """The condition of each WHERE of a part of the schema."""
    text = re.sub(r"\s+", " ", re.sub(r"--[^\n]*", "", text))
    text = re.sub(r"\$(\w+)\$.*?\$\1\$", "''", text)
    text = re.sub(r"'([^']|'')*'", lambda found: found[0] if re.fullmatch(r"'\w+'", found[0]) else "''", text)
    for found in re.finditer(r"\bwhere ", text):
        place, depth = found.end(), 0
        while depth or not END.match(text, place):
            depth += (text[place] == "(") - (text[place] == ")")
            place = text.index("'", place + 1) + 1 if text[place] == "'" else place + 1
        yield text[found.end() : place]


@pytest.fixture
def claimable(conn: Connection) -> frozenset[str]:
    """The condition of the index that claims read, by the clauses of the claim."""
    clauses = CALL.findall(rule(conn, "job_clause_claimable"))
    assert len(clauses) == len(COLUMNS)
    return frozenset().union(*(conjuncts(rule(conn, name)) for name, _arguments in clauses))


def indexes(conn: Connection) -> dict[str, frozenset[str]]:
    """The condition of each partial index of the hot table."""
    found = conn.rows(
        "SELECT indexrelid::regclass::text AS name, pg_get_expr(indpred, indrelid) AS condition FROM pg_index "
        "WHERE indrelid = 'job_queue'::regclass AND indpred IS NOT NULL",
    )
    return {row["name"]: conjuncts(row["condition"]) for row in found}


def negated(condition: str) -> str:
    return condition.removeprefix("not ") if condition.startswith("not ") else condition.replace(" is ", " is not ")


def of_waiting(condition: frozenset[str], columns: tuple[str, ...] = COLUMNS) -> frozenset[str]:
    """The parts of a condition that say whether a pending job waits, and where."""
    return frozenset(part for part in condition if re.search(rf"\b({'|'.join(columns)})\b", part) and "(" not in part)


def test_the_indexes_of_pending_jobs_have_the_conditions_of_the_clauses(
    conn: Connection, claimable: frozenset[str]
) -> None:
    found = indexes(conn)
    (pending,) = conjuncts(rule(conn, "job_clause_pending"))
    (unblocked,) = conjuncts(rule(conn, "job_clause_unblocked"))
    (first,) = conjuncts(rule(conn, "job_clause_first_in_line"))
    assert claimable == {pending, unblocked, first}
    assert found["job_queue_claimable"] == claimable
    assert found["job_queue_claimable_series"] == claimable | {"is_recurring"}
    assert found["job_queue_keyed"] == claimable | {"concurrency_key is not null"}
    assert found["job_queue_lines"] == {pending, unblocked, negated(first)}
    assert found["job_queue_blocked"] == {pending, negated(unblocked)}
    assert found["job_queue_waiting"] == {pending, f"{negated(unblocked)} or {negated(first)}"}
    assert found["job_queue_unmissed"] >= {pending, unblocked}


@pytest.mark.slow
def test_each_condition_on_waiting_jobs_in_the_parts_is_that_of_an_index(
    conn: Connection, claimable: frozenset[str]
) -> None:
    allowed = {of_waiting(one) for one in indexes(conn).values()}
    seen, wrong = 0, []
    for part in (sql_folder() / "sql").iterdir():
        for where in wheres(part.read_text(encoding="utf-8")):
            condition = conjuncts(where)
            if "status = 'pending'" not in condition:
                continue
            waits = of_waiting(condition)
            # One that names a blocker finds its jobs by the index of blocked jobs.
            if any(re.match(r"blocked_by (=|between) ", one) for one in condition):
                waits = frozenset({"status = 'pending'", "blocked_by is not null"})
            seen += waits == claimable
            if len(waits) > 1 and waits not in allowed:
                wrong.append((part.name, where))
    assert wrong == []
    assert seen > 5


def test_the_runs_of_schedulers_are_found_by_the_condition_that_tells_them(conn: Connection) -> None:
    condition = conn.value(
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_index "
        "WHERE indexrelid = 'job_worker_runs_by_scheduler'::regclass",
    )
    assert plain(condition) == plain(rule(conn, "job_is_scheduled"))


def test_the_bounds_of_a_priority_are_those_of_one_function(conn: Connection) -> None:
    bounds = re.findall(r"-?\d+", rule(conn, "job_priority_fits").replace("'", ""))
    assert bounds == [str(LEAST_PRIORITY), str(MOST_PRIORITY)]
    # The trigger of the hot row calls no function of the queue, because a search path would make each enqueue slower.
    trigger = conn.value("SELECT prosrc FROM pg_proc WHERE proname = 'job_queue_after_write'")
    assert re.findall(r"priority not between (\S+) and (\S+)", trigger) == [tuple(bounds)]
    assert f"between {LEAST_PRIORITY} and {MOST_PRIORITY}." in trigger


def test_a_time_is_within_the_same_years_in_the_function_and_in_the_trigger(conn: Connection) -> None:
    years = re.compile(r"'(\d{4}-\d\d-\d\d) 00:00(?::00)?\+00'")
    source = conn.value("SELECT prosrc FROM pg_proc WHERE proname = 'job_queue_after_write'")
    conn.execute("SET TIME ZONE 'UTC'")
    assert years.findall(source) == years.findall(rule(conn, "job_is_a_time")) != []
