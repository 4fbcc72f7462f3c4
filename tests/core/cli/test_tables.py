"""Tables fit the terminal's width with aligned columns, and are whole when piped."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobdeck.core.cli import output
from jobdeck.core.cli.fitting import fitted, shortened, width_of
from tests.core.cli.support import Jobdeck, enqueued
from tests.support.queue import Connection

JOB = "0197d3a2-5c1e-7b60-9f0d-2a6c4b8e1f35"
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
ERROR = "The orders service at https://orders.example.org answered 503 Service Unavailable after three attempts"


def widths(lines: list[str]) -> list[int]:
    return [width_of(line) for line in lines]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("connection refused by host", 20, "connection refused…"),
        ("competitor_announcement_dispatch", 28, "competitor_announcement_…"),
        ("aaaaaaaaaaaaaaaaaaaa", 10, "aaaaaaaaa…"),
        ("日本語日本語日本語", 8, "日本語…"),
        ("e\u0301" * 9, 5, "e\u0301" * 4 + "…"),
    ],
)
def test_a_cell_is_cut_behind_a_word_and_by_what_a_terminal_shows(text: str, width: int, shown: str) -> None:
    assert shortened(text, width) == shown
    assert width_of(shown) <= width


def test_text_gives_way_first_then_ids_then_columns_and_the_header_says_so() -> None:
    table = [["JOB", "TASK", "CREATED", "ERROR"], [JOB, "webhook_push", "2026-11-28 02:23:37Z", ERROR]]
    assert fitted(table, 400) == table
    [[*header], [job, task, created, error]] = fitted(table, 110)
    assert (header, job, task, created) == (table[0], JOB, "webhook_push", "2026-11-28 02:23:37Z")
    assert error == "The orders service at https://…"
    [_, [job, task, created, error]] = fitted(table, 80, ["CREATED"])
    assert (job, task, created) == ("…4b8e1f35", "webhook_push", "2026-11-28 02:23:37Z")
    [header, row] = fitted(table, 50, ["CREATED"])
    assert header == ["JOB", "TASK", "ERROR", "…"]
    assert row[:2] == ["…4b8e1f35", "webhook_push"]
    assert row[2].startswith("The orders")


@example([("0" * 12, "0" * 16, "0" * 18)], 60)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4), st.integers(60, 200))
def test_a_table_of_any_text_fits(rows: list[tuple[str, str, str]], width: int) -> None:
    shown = fitted([["JOB", "A", "B", "C"], *([JOB, *row] for row in rows)], width)
    columns = [max(width_of(row[place]) for row in shown) for place in range(4)]
    assert sum(columns) + 6 <= width


def test_the_list_of_jobs_fits_80_columns_and_is_whole_when_piped(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [enqueued(conn, "webhook_push", to=text) for text in "日本\x1b"]
    conn.execute("UPDATE job_queue SET status = 'failed', completed_at = now(), last_error = %s", (ERROR,))
    piped = jobdeck("jobs").out
    assert ERROR in piped
    assert str(ids[0]) in piped
    for width in (80, 120, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        with monkeypatch.context() as terminal:
            terminal.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
            lines = jobdeck("jobs").out.splitlines()
        assert max(widths(lines)) <= width
        assert len(lines) == 4
        assert all(f"…{str(job)[-8:]}" in "".join(lines) or str(job) in "".join(lines) for job in ids)
        starts = {line.index("webhook_push") for line in lines[1:]}
        assert len(starts) == 1
        assert "\x1b" not in "".join(lines)
        assert "The orders" in lines[1]


def test_a_shortened_id_is_one_that_commands_find(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn)
    assert str(job) in jobdeck("job", str(job)[-8:]).out


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
    assert max(widths(output.table(("NAME", "TEXT"), [("a", ERROR)]))) <= 40
