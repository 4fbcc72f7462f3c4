"""What comes from outside is read or refused, whatever it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from jobdeck.core.programme.sandbox.metactf import flash_event, solve
from jobdeck.core.programme.sync.rules import account_status, category_label, division
from jobdeck.core.programme.vendors.http import RETRY_AFTER_CAP, full_jitter, parse_retry_after
from jobdeck.core.programme.vendors.metactf_errors import ContractError, GamePlatformError
from jobdeck.core.programme.vendors.metactf_wire import (
    MOST_LEVELS,
    Answer,
    Assignments,
    FlashProgress,
    Scores,
    Team,
    User,
    check,
    decode,
    moment,
    refusal,
)

NOW = 1_760_000_000.0
MODELS: list[type[Answer]] = [User, Team, Assignments, Scores, FlashProgress]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SCORES: dict[str, Any] = {
    "syned_user_id": "c-1", "metactf_user_id": 501, "total_challenges_solved": 1, "total_points": 50,
    "last_accessed_unix_timestamp": 0, "category_points": {"web": 50}, "challenge_solves": [solve(1, 100)],
}  # fmt: skip
FLASH: dict[str, Any] = {"syned_user_id": "c-1", "flash_ctfs": [flash_event("Spring", 100, [solve(1, 100)])]}
ANSWERS: list[tuple[type[Answer], dict[str, Any]]] = [(Scores, SCORES), (FlashProgress, FLASH)]


@given(JSON, st.sampled_from(MODELS))
def test_junk_is_refused_as_a_breach_of_contract(junk: Any, model: type[Answer]) -> None:
    with pytest.raises(ContractError, match="does not have the agreed shape"):
        check(junk, model, "GET /x")


@pytest.mark.parametrize(("model", "value"), ANSWERS)
def test_an_answer_is_kept_as_it_was_sent(model: type[Answer], value: dict[str, Any]) -> None:
    sent = value | {"new_field": {"of the vendor": [1]}}
    assert json.loads(json.dumps(check(sent, model, "GET /x").raw())) == sent


@given(st.sampled_from(ANSWERS), st.data())
def test_one_value_of_another_type_anywhere_is_refused_as_a_breach_of_contract(
    given_: tuple[type[Answer], dict[str, Any]], data: st.DataObject
) -> None:
    model, value = given_[0], json.loads(json.dumps(given_[1]))
    place: Any = value
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    # None is left out, because some fields may be null.
    others = JSON | st.sampled_from(["1", "true", 1.0, True])
    place[key] = data.draw(others.filter(lambda other: other is not None and type(other) is not type(place[key])))
    with pytest.raises(ContractError, match="does not have the agreed shape"):
        check(value, model, "GET /x")


@given(st.binary())
def test_bytes_are_json_or_a_breach_of_contract(content: bytes) -> None:
    try:
        decode(content, "GET /x")
    except ContractError:
        return
    json.loads(content)


@given(st.integers(1, 600), st.sampled_from(["[", '{"a":']))
def test_what_is_nested_is_kept_or_a_breach_of_contract_at_any_depth(levels: int, opened: str) -> None:
    new = opened * levels + "1" + ("]" if opened == "[" else "}") * levels
    content = f'{json.dumps(SCORES)[:-1]}, "new_field": {new}}}'.encode()
    if levels < MOST_LEVELS:
        Jsonb(check(decode(content, "GET /x"), Scores, "GET /x").raw())
    else:
        with pytest.raises(ContractError, match="more than 64 levels"):
            decode(content, "GET /x")


@given(JSON)
@example({"\\u0000": "a backslash, and no NUL"})
def test_what_is_decoded_can_be_stored(value: Any) -> None:
    decoded = decode(json.dumps(value).encode(), "GET /x")
    text = json.dumps(decoded, ensure_ascii=False)
    text.encode("utf-8")
    assert "\\u0000" not in text.replace("\\\\", "")
    Jsonb(decoded)


DEEP = b'{"a": ' * 300 + b"1" + b"}" * 300
HOSTILE = [b"[" * 100_000, b"NaN", b'{"a": Infinity}', b'{"a": 1e400}', b"1" * 5000, b"", b"\xff", DEEP]


@pytest.mark.parametrize("content", HOSTILE)
def test_hostile_json_is_a_breach_of_contract(content: bytes) -> None:
    with pytest.raises(ContractError):
        decode(content, "GET /x")


@given(st.integers(300, 599), st.binary() | JSON.map(lambda body: json.dumps(body).encode()))
def test_any_refusal_becomes_an_error_with_a_bounded_sentence(status: int, content: bytes) -> None:
    error = refusal(status, content, "GET /x", {"email": "zz@example.org"}, None)
    assert isinstance(error, GamePlatformError)
    assert len(str(error)) < 500
    assert "\n" not in str(error)


@given(st.text() | st.none())
def test_any_retry_after_is_seconds_within_the_cap_or_nothing(value: str | None) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_CAP


@given(st.integers(0, 10_000))
def test_retry_after_in_seconds_and_as_a_date_mean_the_same(seconds: int) -> None:
    date = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)
    expected = min(seconds, RETRY_AFTER_CAP)
    assert parse_retry_after(str(seconds), NOW) == expected
    assert parse_retry_after(format_datetime(date, usegmt=True), NOW) == expected


def test_a_retry_after_in_the_past_is_no_wait() -> None:
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", NOW) == 0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_jitter_is_anywhere_below_a_bounded_delay(attempt: int, draw: float) -> None:
    assert 0 <= full_jitter(attempt, draw) <= 8.0
    assert full_jitter(attempt, 0.0) == 0.0


@pytest.mark.parametrize("value", ["1", 1.0, True, None])
def test_integers_are_strict(value: Any) -> None:
    with pytest.raises(ContractError, match="total_points"):
        check(SCORES | {"total_points": value}, Scores, "GET /x")


@pytest.mark.parametrize("value", [-1, 1_760_000_000_000])
def test_times_before_1970_and_in_milliseconds_are_refused(value: int) -> None:
    with pytest.raises(ContractError, match="last_accessed"):
        check(SCORES | {"last_accessed_unix_timestamp": value}, Scores, "GET /x")


@pytest.mark.parametrize("value", [0, None])
def test_zero_and_null_are_no_time(value: int | None) -> None:
    scores = check(SCORES | {"last_accessed_unix_timestamp": value}, Scores, "GET /x")
    assert moment(scores.last_accessed_unix_timestamp) is None


def test_left_out_lists_are_empty() -> None:
    short = {name: SCORES[name] for name in ("metactf_user_id", "total_challenges_solved", "total_points")}
    assert check(short, Scores, "GET /x").challenge_solves == []


@pytest.mark.parametrize(
    ("vendors", "ours"),
    [("crypto", "Cryptography"), ("  REVERSE_engineering ", "Reverse Engineering"), ("osint", "OSINT"),
     ("os", "Operating Systems"), ("binary--exploitation", "Binary Exploitation"),
     ("web_exploitation", "Web Exploitation"),
     ("", None), (" _- ", None), (None, None)],
)  # fmt: skip
def test_categories_have_one_label_each(vendors: str | None, ours: str | None) -> None:
    assert category_label(vendors) == ours


@pytest.mark.parametrize(
    ("text", "ours"),
    [("college", "college"), ("MiddleSchool", "middle_school"), ("high-school", "high_school"), (None, "high_school"),
     ("kindergarten", "high_school")],
)  # fmt: skip
def test_divisions_fall_back_to_high_school(text: str | None, ours: str) -> None:
    assert division(text) == ours


@pytest.mark.parametrize(
    ("remote", "logged_in", "ours"),
    [("user_created", True, "approved"), ("user_created", False, "user_created"), ("denied", True, "denied"),
     ("pending_approval", True, "pending_approval"), ("approved", False, "approved"), ("brand new", True, "pending")],
)  # fmt: skip
def test_only_a_created_account_is_promoted_by_a_login(remote: str, logged_in: bool, ours: str) -> None:
    assert account_status(remote, logged_in=logged_in) == ours
