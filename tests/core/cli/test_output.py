"""How commands print: aligned, harmless, and in JSON that any terminal can show."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest

from jobdeck.core.cli import output
from jobdeck.core.model import Finding, Verdict


def test_columns_align_by_what_a_terminal_shows() -> None:
    lines = output.table(("NAME", "X"), [("日本", 1), ("e\u0301", 2), ("plain", None)])
    assert lines == ["NAME   X", "日本   1", "e\u0301      2", "plain  -"]


def test_a_cell_stays_on_its_line_and_in_its_colour() -> None:
    [_, row] = output.table(("A", "B"), [("one\ntwo\x1b[31m", "x")])
    assert row == "one\\ntwo\\x1b[31m  x"


def test_facts_indent_further_lines_and_leave_out_what_is_not_known() -> None:
    assert output.facts([("a", "one\ntwo"), ("long", None), ("bc", 3)]) == ["a   one", "    two", "bc  3"]
    assert output.facts([]) == []


def test_json_has_times_in_utc_words_for_enums_and_only_printable_ascii() -> None:
    moment = datetime(2026, 8, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    finding = Finding("s\x7f\x1b\x9b\u202eé", Verdict.OK, "fine", moment)
    printed = output.as_json(
        {"found": finding, "age": timedelta(minutes=1), "ids": (UUID(int=1),), "where": Path("/a"), "none": None}
    )
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed) == {
        "found": {
            "signal": "s\\x7f\\x1b\\x9b\\u202eé",
            "verdict": "ok",
            "evidence": "fine",
            "since": "2026-08-01T12:00:00Z",
            "subject": "",
        },
        "age": 60.0,
        "ids": ["00000000-0000-0000-0000-000000000001"],
        "where": "/a",
        "none": None,
    }


@pytest.mark.parametrize(
    ("text", "shown"), [(None, "-"), ("", "-"), ("short", "short"), ("a\nb", "a\\nb"), ("x" * 20, "xxxxxxxxx…")]
)
def test_a_text_is_cut_to_one_line(text: str | None, shown: str) -> None:
    assert output.cut(text, 10) == shown


def test_personal_data_is_masked_before_it_is_cut() -> None:
    assert "someone" not in output.cut("write to someone@example.org", 16)
    assert "555" not in output.payload({"phone": "+15005550006"})
    assert output.payload({}) == "-"


def test_no_form_cuts_a_long_text_in_silence() -> None:
    text = "word " * 20_000
    for shown in (
        output.as_json({"error": text}),
        *output.table(("A",), [(text,)])[1:],
        output.payload({"a": text}, 10**6),
    ):
        assert "characters were left out here" in shown


def test_times_and_lengths_are_written_for_people() -> None:
    assert output.when(datetime(2026, 8, 1, 12, 0, 5, 900, tzinfo=UTC)) == "2026-08-01 12:00:05Z"
    assert output.when(None) == "-"
    assert output.seconds(timedelta(seconds=1.234)) == "1.23s"
    assert output.seconds(timedelta(seconds=125)) == "2m 5s"
