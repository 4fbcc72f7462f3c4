"""The comparison of a payload key in a filter: what matches, what it reads, and when it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.queue import bulk, producer
from jobdeck.core.read import jobs
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.read.operators import reach
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, Connection

HOSTILE = ("'; drop table job_queue; --", '"}]', "\\u0000", "%s", "{1,2}", "1e999", "9" * 400, "\u202e")


@pytest.mark.parametrize(
    ("words", "stored", "others"),
    [
        ("orderId=5", [5, "5", 5.0], [50, "05", "5.0", [5], {"5": 5}, None]),
        ('orderId="red fox"', ["red fox"], ["red", "Red fox", ["red fox"]]),
        ("orderId=true", [True, "true"], [False, 1]),
        ("orderId=null", [None, "null"], [0, ""]),
        ("orderId=-1.5e2", [-150, "-1.5e2"], ["-150", 150]),
    ],
)
def test_a_payload_key_is_compared_as_text_and_as_the_number_or_word_that_it_looks_like(
    conn: Connection, words: str, stored: list[Any], others: list[Any]
) -> None:
    wanted = {conn.add(payload={"orderId": one}).id for one in stored}
    for other in others:
        conn.add(payload={"orderId": other})
    conn.add(payload={"order": {"orderId": stored[0]}})

    assert set(jobs.find_ids(conn, parse_filter(words))) == wanted
    choice = bulk.choose(conn, parse_filter(words), actor=ACTOR)
    assert choice is not None
    assert choice.bulk.total == len(stored)
    assert choice.bulk.words == words


@pytest.mark.parametrize("key", ["order.id", "the order id", 'a"b', "a'b", "a\\b", *HOSTILE])
def test_any_name_of_a_key_and_any_value_is_taken_literally(conn: Connection, key: str) -> None:
    wanted = conn.add(payload={key: key})
    conn.add(payload={"order": {"id": key}})
    assert jobs.find_ids(conn, Filter(payload_is=(key, key))) == [wanted.id]


def test_only_the_jobs_of_the_type_are_read(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha", {"orderId": number}) for number in range(500)], actor=ACTOR)
    producer.enqueue_many(conn, [NewJob("beta", {"orderId": number}) for number in range(50)], actor=ACTOR)
    conn.execute("ANALYZE job_queue")
    wanted = parse_filter("type:beta status:pending orderId=7")

    def read(conn: Connection) -> None:
        assert len(jobs.page(wanted).run(conn).jobs) == 1

    assert cost_of(conn, read).rows < 250


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("orderId=1", "jobs of every status"),
        ("payload.orderId:1 type:alpha", "jobs of every status"),
        ("orderId=1 status:pending", "pending jobs"),
        ("orderId=1 status:succeeded type:alpha", None),
        ("orderId=1 status:failed", None),
        ("orderId=1 status:pending type:alpha", None),
        ("status:pending", None),
    ],
)
def test_a_filter_that_would_read_too_many_jobs_says_so_and_asks_for_a_type(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, words: str, refused: str | None
) -> None:
    monkeypatch.setattr(reach, "MOST", 5)
    for number in range(6):
        conn.add(payload={"orderId": number})
    wanted = parse_filter(words)

    if refused is None:
        assert reach.refusal(wanted).run(conn) is None
        assert len(jobs.find_ids(conn, wanted)) == (0 if wanted.status in {Status.FAILED, Status.SUCCEEDED} else
                                                    1 if wanted.payload_is else 6)  # fmt: skip
        return
    sentence = f"would read more than 5 {refused}. Add a type and a status, like type:TYPE status:pending"
    with pytest.raises(UsageError, match=sentence):
        jobs.find_ids(conn, wanted)
    with pytest.raises(UsageError, match=sentence):
        bulk.choose(conn, wanted, actor=ACTOR)
    assert conn.rows("SELECT * FROM job_bulk") == []
    page = jobs.snapshot(wanted, refusal=reach.refusal(wanted).run(conn)).run(conn).page
    assert page.jobs == ()
    assert sentence in (page.refusal or "")
