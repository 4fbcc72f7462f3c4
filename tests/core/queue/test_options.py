"""The table of the options of a job, and what is made of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.http import openapi
from jobdeck.core.http.producers import enqueue
from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from jobdeck.core.queue.options import OPTIONS, Option
from jobdeck.core.queue.requests import Wanted, enqueue_twin, read_wanted
from tests.core.cli.support import ROOT
from tests.support.queue import ACTOR, Connection

NOW = datetime(2026, 7, 4, 12, tzinfo=UTC)
OF_SCHEDULE = {"every", "cron", "tz", "catch_up"}
BY_NAME = {one.name: one for one in OPTIONS}


def test_each_option_is_a_field_of_a_request_or_a_part_of_its_schedule() -> None:
    in_table = {"schedule" if name in OF_SCHEDULE else name for name in BY_NAME}
    assert in_table == {one.name for one in fields(Wanted)} - {"task_type", "payload", "endless"}


def test_the_options_over_http_are_those_of_the_table_and_of_the_documentation() -> None:
    body = openapi.describe()["paths"][enqueue.PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
    page = (ROOT / "docs" / "enqueueing.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    offered = {one.http: one for one in OPTIONS if one.http}
    assert body["oneOf"][0]["properties"].keys() == {"type", "payload", *offered}
    assert offered.keys() <= rows.keys()
    for key in ("priority", "maxAttempts"):
        assert f"from {offered[key].least} to {offered[key].most}" in rows[key]


def test_the_bounds_of_the_priority_are_those_of_the_database(conn: Connection) -> None:
    one = BY_NAME["priority"]
    for value in (one.least, one.most):
        assert producer.enqueue(conn, NewJob("x", {}, priority=value), actor=ACTOR).created
    for value in (one.least - 1, one.most + 1):
        with pytest.raises(Refused, match=f"between {one.least} and {one.most}"):
            producer.enqueue(conn, NewJob("x", {}, priority=value), actor=ACTOR)


@pytest.mark.parametrize("one", [one for one in OPTIONS if one.kind == "number"], ids=lambda one: one.name)
def test_a_typed_number_is_read_within_its_bounds(one: Option) -> None:
    assert [one.typed(str(value), NOW) for value in (one.least, one.most)] == [one.least, one.most]
    for text in (str(one.least - 1), str(one.most + 1)):
        with pytest.raises(UsageError, match=f"^must be {one.least} to {one.most}$"):
            one.typed(text, NOW)
    for text in ("", "1.5", "many", "1_0", "9" * 10):
        with pytest.raises(UsageError, match=r"^must be a whole number$"):
            one.typed(text, NOW)


def test_a_sentence_names_an_option_as_the_person_wrote_it() -> None:
    given = {"lasting": "soon", "every": "1h"}
    with pytest.raises(UsageError, match="duration of --for"):
        read_wanted("x", {}, given, NOW)
    with pytest.raises(UsageError, match="duration of lasting"):
        read_wanted("x", {}, given, NOW, flags=False)


def test_what_a_command_says_is_what_its_twin_writes() -> None:
    given = {
        "at": "2031-01-01T09:00:00Z", "priority": -5, "max_attempts": 7, "dedupe_key": "nightly one",
        "unique_for": "1h30m", "timeout": "1m30s", "dedupe": "replace", "longest_wait": "10m",
    }  # fmt: skip
    wanted = read_wanted("x", {}, given, NOW)
    assert wanted == Wanted(
        "x", {}, datetime(2031, 1, 1, 9, tzinfo=UTC), priority=-5, max_attempts=7, dedupe_key="nightly one",
        unique_for=timedelta(minutes=90), timeout=timedelta(seconds=90), dedupe="replace",
        longest_wait=timedelta(minutes=10),
    )  # fmt: skip
    words = shlex.split(enqueue_twin(wanted))[3:]
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        BY_NAME[name].flag: str(value) for name, value in given.items()
    }
