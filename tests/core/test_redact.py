"""What may reach a terminal, a log or the errors list, and what may not."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.redact import (
    _RULES,
    LONGEST,
    _is_plain,
    _is_quiet,
    _read,
    clean,
    harmless_json,
    redact,
    redact_part,
    safe_error,
    safe_text,
    safe_texts,
    scrub,
)

ADDRESS = "jane.doe@mail.example.org"
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
        ("o'brien@example.org", "brien"),
        ("zoe\u0301@example.org", "zoe"),
        ("'accessToken': 'abcdefgh'", "abcdefgh"),
        ('{\\"password\\": \\"hunter2 and more\\"}', "hunter2"),
        ("DETAIL:  Key (full_name)=(Jane Doe", "Jane"),
        ("mobilePhone=90012345", "90012345"),
        # Codes of addresses, mail, HTML and JSON.
        ("to=jane=40example.org", "jane"),
        ("jane&#64;example.org", "jane"),
        ("jane&#x40;example.org", "jane"),
        ("jane&commat;example&period;org", "jane"),
        ("%6aane%40example%2Eorg", "example"),
        ("jane\\u0040example.org", "jane"),
        ("?to=%2B4790012345", "90012345"),
        ("?to=%2B1%20555%20010%200123", "0123"),
        ("to==2B4790012345", "90012345"),
        # Letters of other widths.
        ("jane\uff20example.org", "jane"),
        ("jane@example\uff0eorg", "jane"),
        ("\uff4aane@example\u3002org", "ane"),
        ("555\u2013010\u20130123", "0123"),
        ("\uff0b\uff14\uff1790012345", "90012345"),
        # Phone numbers as they are written inside a country.
        ("call 020 7946 0958 today", "7946"),
        ("06 12 34 56 78", "34 56"),
        ("0412 345 678", "345"),
        ("030/901820945", "901820"),
        ("(020) 7946 0958", "7946"),
        ("07911123456", "911123"),
        ("98765 43210", "43210"),
        ("41 23 45 67", "23 45"),
        ("412 34 567", "34 567"),
        ("612 345 678", "345"),
        # Several numbers in a row.
        ("+47 900 12 345 020 7946 0958", "0958"),
        ("+47 900 12 345 +47 900 12 346 900 12 347", "12 347"),
        ("020 7946 0958 020 7946 0959", "0959"),
        ("412 34 567 412 34 568", "34 568"),
        ("412 34 567 +47 900 12 345", "34 567"),
        ("phone 90012345 90012346 90012347", "90012347"),
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
        "01987654-3210-7123-8123-012345678901",
        "job 00123456-1234-4234-8234-123456789012 of 12345678-0012-4123-8123-123456789012",
        "from 01.02.2026 13:45 to 26-11-27 00:05:11",
        "50% of 120, count=40, 3 & 4, C:\\\\temp\\\\u0041",
        "rates 20.15.20.30 and 26 11 27 00 5",
        "task skipped, page 3 of 12, run 1764075600",
        "points: Input should be less than or equal to 2147483647",
        "rank: Input should be greater than or equal to -2147483648",
        "ids are between -2147483648 and 4294967295",
        "k…@example.org",
    ],
)
def test_identifiers_times_and_counts_stay_readable(text: str) -> None:
    assert safe_error(text) == text


SECRETS = ("api_key=", "Api-Key: ", "apikey=", "access_key=", "PASSWORD=", "passwd=", "passphrase=", "secret=",
           "token=", "pwd=", "bearer ", "Basic ", "sk-", "SK_", "ghp_", "GHO_", "SG.abcdefghij.")  # fmt: skip
PHONES = ("phone ", "Mobile: ", "telephone no ", "WhatsApp ", "tel ", "TLF ", "mob ", "sms ", "cell ", "fax ")


@pytest.mark.parametrize("before", [*SECRETS, *PHONES])
def test_each_word_has_what_follows_it_masked(before: str) -> None:
    private = "412345" if before in PHONES else "abcdefghijklmnopqrstuvwx"
    assert private not in redact(f"{before}{private}")
    assert private in redact(private)


@pytest.mark.parametrize("number", range(len(_RULES)))
@given(data=st.data())
def test_nothing_that_a_rule_matches_is_passed_over_as_quiet(number: int, data: st.DataObject) -> None:
    pattern, _, needed = _RULES[number]
    text = _read(data.draw(st.from_regex(pattern)))[0]
    if pattern.search(text):
        assert not _is_quiet(text)
        assert not needed or any(piece in text.lower() for piece in needed)


# Values that a rule masks, in two halves, so that examples have them on one line and over the end of one.
HALVES = st.sampled_from((
    *ADDRESS.partition("@"), "password=", "hunter2hunter2", "Bearer ", "c2VjcmV0", "+47 900", " 12 345", "202-555-",
    "0143", "Key (a", "b)=(c)", "phone", ": 123456", "postgresql://u:", "pw@host/db", "jane%40", "mail.org", "a\nb",
    "quiet", "",
))  # fmt: skip
LINES = st.lists(
    ANY_TEXT | HALVES | st.tuples(HALVES, HALVES).map("".join) | st.text("quiet 12", max_size=30), max_size=8
)


@given(LINES, st.integers(0, 40))
def test_texts_that_are_masked_together_are_masked_as_each_one_alone(texts: list[str], limit: int) -> None:
    assert safe_texts(texts, limit) == [safe_text(text, limit) for text in texts]


@given(ANY_TEXT | st.text("a%40=2B&#;\\\\ux \n", max_size=60))
def test_a_text_that_is_passed_over_as_plain_means_what_is_written(text: str) -> None:
    if _is_plain(text):
        assert _read(text)[0] == text


@pytest.mark.parametrize(
    ("before", "private", "mask"),
    [
        ("to ", "jane.doe@mail.example.org", "<email>"),
        ("call ", "+1 202 555 0143", "<phone>"),
        ("Bearer ", "c2VjcmV0LXNlY3JldA", "<secret>"),
        ("password=", "hunter2hunter2", "<secret>"),
    ],
)
def test_a_text_that_is_cut_inside_a_private_value_shows_no_part_of_it(before: str, private: str, mask: str) -> None:
    text = f"{before}{private} and more"
    for place in range(1, len(private)):
        cut = len(before) + place
        assert redact_part(text, 0, cut) == safe_text(text, cut) == f"{before}{mask}"
        assert redact_part(text, cut, len(text)) == f"{mask} and more"


UNSEEN = st.text(
    st.characters(categories=["Cc", "Cf", "Cs", "Mn"], exclude_characters="\n\t") | st.sampled_from("\u3164\u2800"),
    max_size=2,
)


@given(st.lists(UNSEEN, min_size=len(ADDRESS) - 1, max_size=len(ADDRESS) - 1), st.booleans(), st.booleans())
def test_no_invisible_character_hides_an_address(between: list[str], before: bool, after: bool) -> None:
    text = "".join(letter + unseen for letter, unseen in zip(ADDRESS, [*between, ""], strict=True))
    text = clean(text, multiline=True) if before else text
    masked = clean(redact(f"mail to {text} was refused"), multiline=after)
    assert masked == "mail to <email> was refused"


@pytest.mark.slow
@given(st.integers(0, 60), st.sampled_from([ADDRESS, "+47 900 12 345", "password=hunter2hunter2"]))
def test_a_text_is_masked_before_it_is_cut(cut: int, private: str) -> None:
    text = f"to {private} now"
    start = text.index(private)
    for part in (redact_part(text, 0, cut), redact_part(text, cut, len(text)), safe_text(text, cut)):
        assert part.startswith(redact(text)[: min(cut, start)]) or redact(text).endswith(part)
        for size in (5, 9):
            assert private[-size:] not in part
    long = "x" * (LONGEST - 30) + f" mail to {ADDRESS} and more"
    assert "jane" not in redact(long)
    assert "jane" not in safe_error(f"{'x' * 1990} {ADDRESS}")


@given(ANY_TEXT, st.integers(0, 220), st.integers(0, 220))
def test_the_parts_of_a_text_hold_no_more_than_the_whole(text: str, start: int, stop: int) -> None:
    whole = redact_part(text, 0, len(text))
    if whole == text:
        assert redact_part(text, start, stop) == text[start:stop]
    assert redact(whole) == whole


PIECES = (
    "a", "a@", "12 ", "password=x ", "0 1", "\u00e9@", "%40", "Key (a)=(", "ab://", "@a.", "phone ", "\\", "a\x00",
    "&#", "'a", '"', "input_value=", "01 ", "bearer ", "+1 ", "(1", "41 23 ",
)  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_the_longest_text_of_any_shape_is_masked_in_steps_that_grow_with_its_length(piece: str) -> None:
    """An expression with a worse run time would not end within the limit of a test."""
    text = f"{piece * LONGEST}"[:LONGEST]
    assert "jane" not in redact(f"{text[:-30]} {ADDRESS}")


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


@pytest.mark.parametrize(
    ("value", "scrubbed"),
    [
        ({"phone": 4790012345}, {"phone": "<private>"}),
        ({"password": [1234, "a", {"b": None}]}, {"password": ["<private>", "<private>", {"b": None}]}),
        ({"pass\u200bword": "hunter2"}, {"pass\\u200bword": "<private>"}),
        ({"\uff50assword": "hunter2"}, {"\uff50assword": "<private>"}),
        ({"to": 5550100123, "bytes": 1764075600}, {"to": "<phone>", "bytes": 1764075600}),
        ({"emails": 20, "sms": {"sent": 17}, "on": True}, {"emails": 20, "sms": {"sent": 17}, "on": True}),
        ({"run_token": 5550100123, "coachId": 5550100123}, {"run_token": 5550100123, "coachId": 5550100123}),
        ({"jane@example.org": 1, "020 7946 0958": 2}, {"<email>": 1, "<phone>": 2}),
    ],
)
def test_values_are_masked_by_their_keys_and_numbers_by_their_form(value: Any, scrubbed: Any) -> None:
    assert scrub(value) == scrubbed
    assert scrub(scrubbed) == scrubbed


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
