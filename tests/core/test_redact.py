"""What may reach a terminal, a log or the errors list, and what may not."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.redact import _RULES, clean, harmless_json, redact, safe_error, scrub

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)
HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "bell\x07 back\x08 cr\rover",
    "abc\u202etxt.exe",
    "\u2066isolated\u2069",
    "half \ud83d surrogate",
    "zero\u200bwidth\ufeff",
    "line\u2028separator",
    "nul\x00byte",
    "tag\U000e0041",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_characters_become_visible_escapes(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert "\\" in cleaned
    cleaned.encode("utf-8")


@given(ANY_TEXT)
def test_cleaned_text_can_neither_control_nor_break_a_line(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert not [c for c in cleaned if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}]
    assert clean(cleaned) == cleaned


@given(ANY_TEXT)
def test_multiline_keeps_line_feeds_and_tabs_only(text: str) -> None:
    cleaned = clean(text, multiline=True)
    assert not [c for c in cleaned if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t"]
    assert clean(cleaned, multiline=True) == cleaned


@pytest.mark.parametrize("text", ["Zoë Ålesund", "日本語", "👩‍👩‍👧", "naïve “quoted”", "a plain line"])
def test_ordinary_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("no mailbox for jane.doe+test@mail.example.org.", "jane"),
        ('"Jane Doe"@example.org bounced', "Jane"),
        ("https://example.org/?to=jane%40example.org", "jane"),
        ("zoë@bücher.example", "zoë"),
        ("sms to +1 (555) 010-0123 failed", "0123"),
        ("sms to +4790012345 failed", "900123"),
        ("call 555-010-0123.", "0123"),
        ("call (555) 010-0123", "0123"),
        ("number 5550100123 is not reachable", "5550100123"),
        ("phone: 90012345", "90012345"),
        ("Authorization: Bearer abcdef.123456", "abcdef"),
        ("authorization: basic dXNlcjpwYXNz", "dXNlcj"),
        ("postgresql://worker:s3cr@t@db.example.org/jobs", "s3cr"),
        ("GAME_PLATFORM_API_TOKEN=hunter2hunter2", "hunter2"),
        ("{'api_key': 'abcd efgh'}", "abcd"),
        ("?access_token=abcdef&x=1", "abcdef"),
        ("key SG.abcdefghijkl.mnopqrstuvwx rejected", "mnop"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl", "eyJ"),
        ("DETAIL:  Key (lower(full_name))=(Jane (JD) Doe) already exists.", "Jane"),
        ("DETAIL:  Failing row contains (17, Jane Doe, 2011-01-01).", "Jane"),
        ("[type=int_parsing, input_value='Jane Doe', input_type=str]", "Jane"),
        ("jane\x00doe@example.org", "doe"),
    ],
)
def test_private_values_are_masked(text: str, private: str) -> None:
    assert private in text
    assert private not in redact(clean(text, multiline=True))
    assert private not in safe_error(text)


@pytest.mark.parametrize(
    "text",
    [
        "run_token=123456 of job 12345678-1234-1234-1234-123456789012",
        "2026-03-01 12:56:01.123456+00:00",
        "1764075600 s and 1764075600123 ms since the epoch",
        "1755 of 2000 done, 17 failed",
        'password authentication failed for user "jobdeck"',
        "versions 10.15.2 and 1.2.3.4",
        "https://api.example.org/v1/teams/42 answered 503",
        "sms 17 of 20 sent",
    ],
)
def test_identifiers_times_and_counts_stay_readable(text: str) -> None:
    assert safe_error(text) == text


@pytest.mark.parametrize("number", range(len(_RULES)))
@given(data=st.data())
def test_nothing_that_a_rule_matches_is_passed_over_as_innocent(number: int, data: st.DataObject) -> None:
    pattern, mask = _RULES[number]
    text = data.draw(st.from_regex(pattern))
    # An earlier rule may have masked a part of it already.
    assert redact(text) != text or pattern.sub(mask, text) == text


def test_an_error_is_one_line_and_fits() -> None:
    text = safe_error("first\n  second\r\n\tthird " + "x" * 5000, limit=100)
    assert text.startswith("first second third xxx")
    assert len(text) == 100
    assert text.endswith("…")


def test_a_cut_never_uncovers_what_was_masked() -> None:
    for length in range(10, 60):
        assert "jane" not in safe_error("mail to jane.doe@example.org was refused by the server", limit=length)


@given(ANY_TEXT)
def test_safe_errors_are_stable(text: str) -> None:
    assert safe_error(text).isprintable() or any(unicodedata.category(c) in {"Cf", "Cn", "Co", "Zs"} for c in text)
    safe_error(text).encode("utf-8")


def test_scrub_reaches_every_text_of_a_value() -> None:
    scrubbed = scrub(
        {"a": ["jane@example.org", {"b": "\x1b[1m"}], "Password": "hunter2", "full_name": "Jane Doe", "n": 5}
    )
    assert scrubbed == {
        "a": ["<email>", {"b": "\\x1b[1m"}],
        "Password": "<private>",
        "full_name": "<private>",
        "n": 5,
    }


def test_scrub_masks_keys_as_well_and_loses_no_entry_whose_key_is_masked_alike() -> None:
    scrubbed = scrub({"kim@example.org": 1, "lee@example.org": {"a\x1bb": 2}, "<email> 2": 3, "max@example.org": 4})
    assert sorted(map(str, scrubbed)) == ["<email>", "<email> 2", "<email> 2 2", "<email> 3"]
    assert sorted(map(str, scrubbed.values())) == ["1", "3", "4", "{'a\\\\x1bb': 2}"]


TRICKY = st.text(max_size=30) | st.text(
    alphabet='\x1b\x9b\x7f\u202e\u2028\U000e0041[]\x00\x07\n"\\aé漢👩\u200d', max_size=20
)


@given(
    st.dictionaries(TRICKY, TRICKY | st.lists(TRICKY, max_size=3) | st.integers() | st.booleans(), max_size=4),
    st.sampled_from([None, 2]),
)
def test_json_is_written_so_that_it_can_do_nothing_to_a_terminal_and_is_read_back(
    value: dict[str, Any], indent: int | None
) -> None:
    text = harmless_json(value, indent=indent)
    assert clean(text, multiline=indent is not None) == text
    assert json.loads(text) == value
