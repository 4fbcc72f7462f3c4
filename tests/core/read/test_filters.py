"""The filter language, which the dashboard's `/` and the command line's `--filter` share."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Filter, RunOutcome, Status
from jobdeck.core.read.filters import completions, format_filter, parse_filter

# The key `coach:` is the competition's, and shows what a plugin's filter does.
pytestmark = pytest.mark.competition
TYPES = ("game_platform_profile_refresh", "game_platform_sync", "sms_digest_processor")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Filter()),
        ("two words", Filter(search="two words")),
        ("status:failed TYPE:a_type", Filter(status=Status.FAILED, task_type="a_type")),
        ("status:fail outcome:PART", Filter(status=Status.FAILED, outcome=RunOutcome.PARTIAL)),
        ("status:all x", Filter(search="x")),
        ("status:at-limit", Filter(status=Status.PENDING, standing="at limit")),
        ('status:"Cannot Run"', Filter(status=Status.PENDING, standing="cannot run")),
        ("status:retr", Filter(status=Status.PENDING, standing="retrying")),
        ("status:p", Filter(status=Status.PENDING)),
        ("status:r", Filter(status=Status.RUNNING)),
        ("status:c", Filter(status=Status.CANCELLED)),
        ('error:"connection reset" coach:c-1', Filter(error="connection reset", payload=("coachId", "c-1"))),
        ("payload.Order-7:a status:failed", Filter(status=Status.FAILED, payload=("Order-7", "a"))),
        ('payload.customer:"red fox"', Filter(payload=("customer", "red fox"))),
        ("orderId=5 status:failed", Filter(status=Status.FAILED, payload_is=("orderId", "5"))),
        ('order.id="red fox"', Filter(payload_is=("order.id", "red fox"))),
        (r'"the \"order\" id"=a=b', Filter(payload_is=('the "order" id', "a=b"))),
        ("payload.status=x", Filter(payload_is=("status", "x"))),
        ('"a=b"', Filter(search="a=b")),
        ("older:2h attempts:3", Filter(older_than=timedelta(hours=2), attempts_at_least=3)),
        ("age>2h attempts>=3", Filter(older_than=timedelta(hours=2), attempts_at_least=3)),
        ("age:90m attempts>3", Filter(older_than=timedelta(minutes=90), attempts_at_least=4)),
        ("attempts:>=4 outcome:partial x", Filter(attempts_at_least=4, outcome=RunOutcome.PARTIAL, search="x")),
        ('"status:failed"', Filter(search="status:failed")),
        (r'error:"say \"no\" \\ now"', Filter(error=r'say "no" \ now')),
        ('"http://x" 12:30 a-b:c', Filter(search="http://x 12:30 a-b:c")),
    ],
)
def test_a_filter_is_read(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("state:failed", "state"),
        ("http://x", "double quotes"),
        ("atempts>=3", "atempts"),
        ("status:broken", "broken"),
        (
            "status:at-limits",
            r'did you mean "at-limit"\?.*cannot-run, overdue, paused, retrying, at-limit',
        ),
        ("status:at-limit status:pending", "status twice"),
        ("status:", "status:failed"),
        ("status: failed", "status:failed"),
        ("error>5", "error"),
        ("age<2h", "age>2h"),
        ("outcome:fine", "fine"),
        ("outcome:c", "continued, cancelled"),
        ("older:long", "long"),
        ("age>soon", "soon"),
        ("attempts:many", "many"),
        ("attempts:²", "²"),
        ("type:a type:b", "twice"),
        ("age>2h older:3h", "twice"),
        ("statu:failed", r'"statu"; did you mean "status"\?'),
        ("coach:a payload.customer:b", "two payload keys"),
        ("payload.customer:", "payload.customer:ID"),
        ("a=1 b=2", "two payload keys"),
        ("coach:a customer=b", "two payload keys"),
        ("customer=b coach:a", "two payload keys"),
        ("orderId=", "orderId=5"),
        ("payload.=5", "orderId=5"),
        ("status=failed", "status:failed"),
        ("coach=7", "coach:ID"),
        ("orderId=\0", "cannot store"),
        ("orderId=\udcff", "cannot store"),
        ("payload:x", "payload.KEY:"),
        ("payload.customer>5", "payload.customer"),
        ('error:"rate limit', "quote"),
        ('error:rate"limit"', "quote"),
        ('"a"b', "needs a space"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused_rather_than_widened(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_filter(text)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text(alphabet='abstypeoldrg:"\\>=< 0123', max_size=40))
def test_no_text_does_more_than_read_or_be_refused(text: str) -> None:
    try:
        read: Filter | str = parse_filter(text)
    except UsageError as refused:
        read = str(refused)
    assert isinstance(read, Filter) or read.endswith(".")


def _words(**limits: Any) -> st.SearchStrategy[str]:
    return st.text(min_size=1, **limits) | st.text(alphabet='ab:"\\> ', min_size=1, max_size=12)


def _storable() -> st.SearchStrategy[str]:
    return _words(max_size=20).filter(lambda text: "\0" not in text and text.isprintable())


@settings(deadline=None)
@given(
    st.builds(
        Filter,
        status=st.none() | st.sampled_from(Status),
        task_type=st.none() | _words(max_size=20),
        search=st.none() | _words(max_size=20),
        error=st.none() | _words(max_size=20),
        payload=st.none() | st.tuples(st.sampled_from(["coachId", "customer", "Order-7"]), _words(max_size=20)),
        payload_is=st.none() | st.tuples(st.sampled_from(["status", "payload.a", 'b "c=']) | _storable(), _storable()),
        attempts_at_least=st.none() | st.integers(0, 999_999),
        older_than=st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=30_000)),
        outcome=st.none() | st.sampled_from(RunOutcome),
    ).filter(lambda made: made.payload is None or made.payload_is is None)
)
def test_a_filter_that_is_written_down_reads_as_itself(wanted: Filter) -> None:
    assert parse_filter(format_filter(wanted)) == wanted


def test_a_filter_is_written_as_a_person_would() -> None:
    wanted = Filter(
        status=Status.FAILED, task_type="sync", search="red fox", error="rate limit", attempts_at_least=3,
        older_than=timedelta(hours=26),
    )  # fmt: skip
    assert format_filter(Filter(status=Status.PENDING, standing="at limit")) == "status:at-limit"
    assert format_filter(wanted) == 'status:failed type:sync error:"rate limit" attempts>=3 age>1d2h red fox'


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("", ["type:", "status:", "error:", "coach:", "age>", "attempts>=", "outcome:"]),
        ("red ", ["type:", "status:", "error:", "coach:", "age>", "attempts>=", "outcome:"]),
        ("a", ["age>", "attempts>="]),
        ("red st", ["status:"]),
        ("status:f", ["status:failed"]),
        ("status:c", ["status:cancelled", "status:cannot-run", "status:succeeded"]),
        ("red type:sync", ["type:game_platform_sync"]),
        ("type:s", ["type:sms_digest_processor", "type:game_platform_profile_refresh", "type:game_platform_sync"]),
        ("type:game_platform_sync", []),
        ("error:x", []),
        ("zebra", []),
    ],
)
def test_the_last_word_is_completed(text: str, offered: list[str]) -> None:
    assert completions(text, TYPES) == offered


@pytest.mark.parametrize("text", ["type:", "status:", "outcome:", "age>", "attempts>="])
def test_every_key_that_is_offered_is_one_that_is_read(text: str) -> None:
    offered = completions(text, TYPES) or [f"{text}3{'h' if text == 'age>' else ''}"]
    for word in offered:
        parse_filter(word)
