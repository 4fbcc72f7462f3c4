"""The Create Job form without a screen: fields, JSON, schedule, problems."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from jobdeck.core import registry as job_types
from jobdeck.core.errors import UsageError
from jobdeck.core.model import Enqueued, Job, Status
from jobdeck.core.queue.requests import Wanted, changes, enqueue_twin, parse_object
from jobdeck.core.registry import JobType, Payload
from jobdeck.core.schedules import Cron, Every
from jobdeck.tui.backend.protocol import Rehearsal
from jobdeck.tui.form import wording
from jobdeck.tui.form.fields import Field as FormField
from jobdeck.tui.form.fields import fields_of, problems, read, shown
from jobdeck.tui.form.form import AT, CATCH_UP, EVERY, LASTING, OFFERED, ZONE, Form
from tests.tui.fake import NOW, make_job
from tests.tui.fake_creating import COACH, REGISTRY, job_type

SYNC = REGISTRY.require("game_platform_sync")
ONBOARD = REGISTRY.require("game_platform_onboard_competitors")
DIGEST = REGISTRY.require("sms_digest_processor")
DISPATCH = REGISTRY.require("competitor_announcement_dispatch")


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    deep: int = 1


class Everything(Payload):
    colour: Colour = Colour.RED
    one: Literal["only"] = "only"
    ratio: float = Field(0.5, gt=0, le=1)
    count: Annotated[int, Field(ge=1)] | None = None
    when: datetime | None = None
    words: list[str] = Field(default_factory=list)
    numbers: list[int] = Field(default_factory=list)
    inner: Inner = Inner()
    needed_word: str

    @model_validator(mode="after")
    def together(self) -> Everything:
        if self.needed_word == "count" and self.count is None:
            raise ValueError("count is needed with this word")
        return self


EVERYTHING = job_type("everything", "Everything", "", Everything)


def kinds(known: JobType) -> dict[str, str]:
    return {one.name: one.kind for one in fields_of(known)}


def field_of(known: JobType, name: str) -> FormField:
    return next(one for one in fields_of(known) if one.name == name)


def begun(known: JobType | None = SYNC, job: Job | None = None, *, editing: bool = False) -> Form:
    return Form.begin(known, job=job, editing=editing)


def wanted(filled: Form) -> Wanted:
    found = filled.wanted(NOW)
    assert found is not None, filled.problems
    return found


def test_each_kind_of_field_has_its_widget() -> None:
    assert kinds(SYNC) == {
        "dryRun": "switch", "coachId": "search", "forceFullSync": "switch", "batchSize": "number", "cursor": "json",
        "mode": "choice", "syncTeams": "choice",
    }  # fmt: skip
    assert kinds(ONBOARD)["competitorIds"] == "ids"
    assert kinds(DIGEST) == {"roles": "words", "note": "text", "hours": "number"}
    assert kinds(DISPATCH)["campaignId"] == "search"
    assert kinds(EVERYTHING) == {
        "colour": "choice", "one": "choice", "ratio": "number", "count": "number", "when": "time", "words": "ids",
        "numbers": "json", "inner": "json", "neededWord": "text",
    }  # fmt: skip


def test_a_field_knows_its_limits_its_choices_and_whether_it_is_needed() -> None:
    size = field_of(SYNC, "batchSize")
    assert (size.least, size.most, size.note) == (1, 200, "1 to 200; Competitors in each run of a wave")
    assert field_of(SYNC, "mode").choices == ("", "wave", "full")
    assert field_of(EVERYTHING, "colour").choices == ("red", "blue")
    assert field_of(DISPATCH, "campaignId").required
    assert field_of(DISPATCH, "campaignId").note.startswith("required")
    assert not field_of(EVERYTHING, "ratio").whole


@pytest.mark.parametrize(
    ("known", "name", "text", "value"),
    [
        (SYNC, "dryRun", "true", True),
        (SYNC, "syncTeams", "false", False),
        (SYNC, "syncTeams", "", None),
        (SYNC, "batchSize", " 150 ", 150),
        (SYNC, "coachId", COACH.upper(), COACH),
        (SYNC, "cursor", '{"id": "x"}', {"id": "x"}),
        (SYNC, "mode", "wave", "wave"),
        (ONBOARD, "competitorIds", "a, b;c  a\nd", ["a", "b", "c", "d"]),
        (DIGEST, "roles", "admin coach", ["admin", "coach"]),
        (DIGEST, "hours", "1.5", 1.5),
        (EVERYTHING, "when", "in 2h", "2026-07-04T14:04:31+00:00"),
    ],
)
def test_the_text_of_a_field_is_read(known: JobType, name: str, text: str, value: object) -> None:
    assert read(field_of(known, name), text, NOW) == value


@pytest.mark.parametrize(
    ("known", "name", "text", "word"),
    [
        (SYNC, "batchSize", "0", "1 to 200"),
        (SYNC, "batchSize", "201", "1 to 200"),
        (SYNC, "batchSize", "many", "whole number"),
        (SYNC, "batchSize", "1.5", "whole number"),
        (SYNC, "coachId", "kim", "36 digits"),
        (SYNC, "cursor", "{", "JSON"),
        (DIGEST, "roles", "parent", "coach, admin"),
        (DIGEST, "hours", "-1", "0 to 72"),
        (DISPATCH, "campaignId", "  ", "required"),
        (EVERYTHING, "when", "soon", "soon"),
    ],
)
def test_a_text_that_stands_for_no_value_is_refused_in_few_words(
    known: JobType, name: str, text: str, word: str
) -> None:
    with pytest.raises(UsageError, match=word) as refused:
        read(field_of(known, name), text, NOW)
    assert len(str(refused.value)) < 160


def test_an_untouched_form_asks_for_an_empty_payload_due_now() -> None:
    assert wanted(begun()) == Wanted("game_platform_sync", {})


def test_the_json_follows_the_fields_and_a_default_is_left_out_again() -> None:
    filled = begun()
    filled.set_text("forceFullSync", "true", NOW)
    filled.set_text("batchSize", "150", NOW)
    assert json.loads(filled.json_text) == {"forceFullSync": True, "batchSize": 150}
    filled.set_text("forceFullSync", "false", NOW)
    filled.set_text("batchSize", "", NOW)
    assert json.loads(filled.json_text) == {}
    assert not filled.changed


def test_what_a_job_says_explicitly_is_kept_though_it_is_the_default() -> None:
    job = make_job(1, payload={"dryRun": False, "coachId": None, "batchSize": 50})
    filled = begun(SYNC, job)
    assert not filled.changed
    filled.set_text("batchSize", "60", NOW)
    assert wanted(filled).payload == {"dryRun": False, "coachId": None, "batchSize": 60}
    filled.set_text("dryRun", "true", NOW)
    filled.set_text("dryRun", "false", NOW)
    assert wanted(filled).payload["dryRun"] is False


def test_the_fields_follow_the_json() -> None:
    filled = begun()
    filled.set_json(json.dumps({"coachId": COACH, "mode": "wave", "syncTeams": True}))
    assert [filled.text(name) for name in ("coachId", "mode", "syncTeams", "batchSize")] == [COACH, "wave", "true", ""]
    assert wanted(filled).payload == {"coachId": COACH, "mode": "wave", "syncTeams": True}


def test_json_that_cannot_be_read_keeps_the_last_payload_and_nothing_can_be_created_meanwhile() -> None:
    filled = begun()
    filled.set_text("batchSize", "20", NOW)
    filled.set_json('{"batchSize": 20,')
    assert filled.wanted(NOW) is None
    assert "not valid JSON" in filled.problems["json"]
    filled.set_text("batchSize", "30", NOW)
    assert wanted(filled).payload == {"batchSize": 30}


def test_each_mistake_is_known_by_its_field_and_what_no_field_is_about_by_the_json() -> None:
    filled = begun()
    filled.set_json('{"batchSize": "x", "mode": "fast", "nonsense": 1}')
    filled.set_text(AT, "soon", NOW)
    filled.set_text("priority", "1000", NOW)
    filled.set_text("max_attempts", "-1", NOW)
    found = filled.check(NOW)
    assert set(found) == {"batchSize", "mode", "json", AT, "priority", "max_attempts"}
    assert found["json"] == "nonsense is not a field of this task type"
    assert found["priority"] == "must be -100 to 100"
    assert found[AT] == "invalid; try tomorrow 9:00"
    assert wording.problems(filled, "F8") == (
        "✗ fix first: batch size, mode, run at, priority, max attempts, the JSON; F8 goes to the first"
    )


def test_what_is_wrong_between_fields_stands_at_the_json() -> None:
    filled = begun(EVERYTHING)
    assert filled.check(NOW) == {"neededWord": "is required"}
    filled.set_text("neededWord", "count", NOW)
    assert "count is needed with this word" in filled.check(NOW)["json"]
    filled.set_text("count", "2", NOW)
    assert filled.check(NOW) == {}


def test_a_value_that_no_text_stands_for_is_left_to_the_json() -> None:
    payload = {"note": "a\x1b[31m", "roles": ["coach", 5]}
    filled = begun(DIGEST, make_job(1, task_type=DIGEST.task_type, payload=payload))
    assert filled.text("note") is None
    assert filled.text("roles") is None
    assert filled.payload == payload


@settings(deadline=None)
@given(st.sampled_from([SYNC, ONBOARD, DIGEST, DISPATCH, EVERYTHING]), st.data())
def test_whatever_is_typed_the_form_reads_it_or_says_what_is_wrong(known: JobType, data: st.DataObject) -> None:
    filled = begun(known)
    names = [one.name for one in filled.fields] + [*OFFERED]
    for _ in range(data.draw(st.integers(1, 6))):
        name, text = data.draw(st.sampled_from(names)), data.draw(st.text(max_size=12) | st.sampled_from(WORDS))
        filled.set_text(name, text, NOW)
    filled.recurring = data.draw(st.booleans())
    found = filled.wanted(NOW)
    assert (found is None) == bool(filled.problems)
    assert json.loads(filled.json_text) == filled.payload
    if found is not None:
        known.parse(found.payload)
        filled.runs(NOW)
        wording.runs(filled, NOW)


WORDS = (
    "", " ", "true", "false", "5", "-5", "--5", "0", "15m", "7d", "forever", "in 2h", "tomorrow 9:00", COACH, "wave",
    "coach", "{}",
)  # fmt: skip


HOSTILE = st.text(max_size=30) | st.text(alphabet='\x1b\x9b\u202e\u2028[]\x00\x07\n"\\aé漢', max_size=20)


@settings(deadline=None)
@given(HOSTILE | st.text(alphabet='{}[]",:0123456789abtrue', max_size=40))
def test_whatever_is_typed_as_json_is_taken_or_said_to_be_wrong(text: str) -> None:
    filled = begun()
    filled.set_json(text)
    try:
        expected = parse_object(text)
    except UsageError:
        assert filled.json_problem
        assert filled.payload == {}
    else:
        assert filled.payload == expected


def test_a_time_in_words_is_shown_as_the_absolute_time_it_is() -> None:
    filled = begun()
    filled.set_text(AT, "tomorrow 9:00", NOW)
    assert filled.note(AT, NOW) == "= 2026-07-05 09:00Z, in 20h"
    assert wanted(filled).at == datetime(2026, 7, 5, 9, tzinfo=UTC)
    filled.set_text(AT, "2026-07-01", NOW)
    assert filled.note(AT, NOW) == "past: runs at once (2026-07-01 00:00Z)"


def test_so_is_a_time_of_the_payload_which_the_clock_does_not_move_on() -> None:
    filled = begun(EVERYTHING)
    assert wording.note(filled, "when", NOW) == ""
    filled.set_text("when", "in 2h", NOW)
    assert filled.payload["when"] == (NOW + timedelta(hours=2)).isoformat()
    assert wording.note(filled, "when", NOW) == f"= {NOW + timedelta(hours=2):%Y-%m-%d %H:%M}Z, in 2h"
    later = NOW + timedelta(hours=3)
    assert wording.note(filled, "when", later) == f"= {NOW + timedelta(hours=2):%Y-%m-%d %H:%M}Z, 60m ago"


def test_a_series_shows_its_next_three_runs_and_its_end() -> None:
    filled = begun()
    filled.recurring = True
    assert wanted(filled).schedule == Every(minutes=15)
    assert wording.runs(filled, NOW) == "next runs: now, 12:19, 12:34, … every 15m"
    filled.set_text(AT, "tomorrow 9:00", NOW)
    filled.set_text(EVERY, "6h", NOW)
    filled.set_text(LASTING, "12h", NOW)
    assert wording.runs(filled, NOW) == "next runs: 07-05 09:00, 15:00 every 6h, until 07-05 21:00Z"
    found = wanted(filled)
    assert (found.schedule, found.lasting) == (Every(hours=6), timedelta(hours=12))
    assert "ends 2026-07-05 21:00Z" in filled.note(LASTING, NOW)


def test_a_cron_expression_in_a_zone_is_an_interval_too() -> None:
    filled = begun()
    filled.recurring = True
    filled.set_text(EVERY, "0 9 * * 1-5", NOW)
    assert wanted(filled).schedule == Cron("0 9 * * 1-5")
    filled.set_text(ZONE, "America/New_York", NOW)
    filled.set_text(CATCH_UP, "all", NOW)
    found = wanted(filled)
    assert found.schedule == Cron("0 9 * * 1-5", "America/New_York", "all")
    assert wording.runs(filled, NOW) == "next runs: 07-06 13:00, 07-07 13:00, 07-08 13:00, … by cron"
    assert wording.note(filled, ZONE, NOW) == "first there: Mon 07-06 09:00"
    assert '--cron "0 9 * * 1-5" --tz America/New_York --catch-up all'.replace('"', "'") in filled.twin(found, None)


@pytest.mark.parametrize(
    ("every", "zone", "problems"),
    [
        ("0 9 * * 1-9", "", {EVERY: "day of week is wrong; try 0 9 * * 1-5"}),
        ("0 0 30 2 *", "", {EVERY: "never comes; change the day or month"}),
        ("0 9 * *", "", {EVERY: "needs five fields; try 0 9 * * 1-5"}),
        ("0 9 * * *", "Paris", {ZONE: "is no time zone; try Europe/Paris"}),
        ("2 h 30 m", "Paris", {}),
        ("45s", "", {}),
    ],
)
def test_a_bad_expression_and_a_bad_zone_are_said_beside_their_fields(
    every: str, zone: str, problems: dict[str, str]
) -> None:
    filled = begun()
    filled.recurring = True
    filled.set_text(EVERY, every, NOW)
    filled.set_text(ZONE, zone, NOW)
    assert filled.check(NOW) == problems


def test_a_job_that_runs_once_has_neither_interval_nor_end() -> None:
    filled = begun()
    filled.set_text(EVERY, "nonsense", NOW)
    filled.set_text(LASTING, "7d", NOW)
    found = wanted(filled)
    assert (found.schedule, found.lasting) == (None, None)
    assert wording.runs(filled, NOW) == "runs once: now"


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_the_edit_of_a_job_that_has_ended_does_not_promise_a_run(status: Status) -> None:
    job = make_job(1, status, task_type=SYNC.task_type, payload={})
    assert wording.runs(begun(SYNC, job, editing=True), NOW) == f"stays {status.value} until it is retried"
    assert wording.runs(begun(SYNC, job), NOW) == "runs once: now"


def test_another_type_keeps_what_both_have_and_the_schedule_that_was_typed() -> None:
    filled = begun()
    filled.set_text("coachId", COACH, NOW)
    filled.set_text("batchSize", "20", NOW)
    filled.set_text(AT, "in 2h", NOW)
    filled.recurring = True
    other = filled.turned_into(ONBOARD)
    assert other.payload == {"coachId": COACH}
    assert (other.texts[AT], other.recurring) == ("in 2h", True)
    assert begun().turned_into(DIGEST).texts[EVERY] == "1h"


SERIES = make_job(
    7, Status.PENDING, is_recurring=True, recurrence_interval_minutes=15, run_at=NOW + timedelta(minutes=9),
    anchor_at=NOW - timedelta(hours=10, minutes=6), payload={"batchSize": 50}, priority=3, version=4,
    expires_at=NOW + timedelta(days=30), max_attempts=9,
)  # fmt: skip


def test_a_duplicate_has_the_payload_and_the_interval_and_is_due_now() -> None:
    found = wanted(begun(SYNC, SERIES))
    assert found == Wanted(
        "game_platform_sync", {"batchSize": 50}, schedule=Every(minutes=15), priority=3, max_attempts=9
    )


def test_an_edit_that_changes_nothing_changes_nothing() -> None:
    filled = begun(SYNC, SERIES, editing=True)
    assert not filled.changed
    assert changes(REGISTRY, SERIES, wanted(filled), NOW) == {}


def test_an_edit_says_what_it_changes_and_no_more() -> None:
    filled = begun(SYNC, SERIES, editing=True)
    filled.set_text("batchSize", "60", NOW)
    filled.set_text(AT, "in 2h", NOW)
    filled.set_text(EVERY, "30m", NOW)
    filled.set_text(LASTING, "1d", NOW)
    filled.set_text("priority", "", NOW)
    filled.set_text("max_attempts", "2", NOW)
    filled.set_text("timeout", "1m30s", NOW)
    found = wanted(filled)
    assert changes(REGISTRY, SERIES, found, NOW) == {
        "payload": {"batchSize": 60}, "concurrency_key": "game_platform_sync",
        "run_at": "2026-07-04T14:04:31+00:00", "recurrence_interval_minutes": 30,
        "expires_at": "2026-07-05T14:04:31+00:00", "priority": 0, "max_attempts": 2,
        "timeout": 90.0,
    }  # fmt: skip


def test_a_timeout_of_its_own_is_kept_in_an_edit_cleared_with_its_text_and_kept_by_a_duplicate() -> None:
    own = make_job(1, task_type="game_platform_sync", timeout_seconds=90.5)
    filled = begun(SYNC, own, editing=True)
    assert (filled.texts["timeout"], changes(REGISTRY, own, wanted(filled), NOW)) == ("1m30.5s", {})
    filled.set_text("timeout", "", NOW)
    made = changes(REGISTRY, own, wanted(filled), NOW)
    assert made == {"timeout": None}
    assert filled.twin(wanted(filled), made).endswith("--timeout default")
    copied = wanted(begun(SYNC, own))
    assert copied.timeout == timedelta(seconds=90.5)
    assert "--timeout 1m30.5s" in enqueue_twin(copied)


def test_a_series_can_be_made_endless_or_to_run_once() -> None:
    endless = begun(SYNC, SERIES, editing=True)
    endless.set_text(LASTING, "forever", NOW)
    assert changes(REGISTRY, SERIES, wanted(endless), NOW) == {"expires_at": None}
    once = begun(SYNC, SERIES, editing=True)
    once.recurring = False
    assert changes(REGISTRY, SERIES, wanted(once), NOW) == {"recurrence_interval_minutes": None, "expires_at": None}


def test_an_edited_series_shows_the_slots_it_keeps() -> None:
    filled = begun(SYNC, SERIES, editing=True)
    assert [f"{slot:%H:%M:%S}" for slot in filled.runs(NOW)] == ["12:13:31", "12:28:31", "12:43:31"]


def test_a_job_of_a_type_without_handler_keeps_its_payload_and_its_schedule_can_be_changed() -> None:
    job = make_job(1, task_type="from_elsewhere", payload={"x": 1})
    filled = begun(None, job, editing=True)
    assert filled.fields == ()
    filled.set_text("priority", "5", NOW)
    assert changes(REGISTRY, job, wanted(filled), NOW) == {"priority": 5}


def test_every_registered_type_has_fields_for_all_of_its_payload_and_an_explanation_for_each() -> None:
    known = job_types.load()
    assert len(known) >= 10
    for one in known:
        fields = fields_of(one)
        assert [field.name for field in fields] == [
            facts.alias or name for name, facts in one.payload.model_fields.items()
        ], one.task_type  # fmt: skip
        assert all(field.note for field in fields), one.task_type
        needed = {field.name for field in fields if field.required}
        assert set(problems(one, {})) == needed
        for field in fields:
            assert shown(field, {}) is not None


def test_a_preview_is_told_one_fact_a_line_and_hostile_text_is_harmless() -> None:
    found = Rehearsal("The job would be enqueued.", ok=True, effects={
        "people": {"total": 3, "sample": ["a", "b"]}, "none": [], "rows": [{"id": 1}, {"id": 2}], "\x1b[31m": "x\x07",
    })  # fmt: skip
    lines = wording.rehearsed(found).plain.split("\n")
    assert lines[:5] == ["The job would be enqueued.", "A run would currently:", "  people", "    total: 3",
                         "    sample: a, b"]  # fmt: skip
    assert "  none: none" in lines
    assert not any(ord(letter) < 32 for letter in "".join(lines))
    assert wording.rehearsed(None).plain == ""


def test_what_came_of_a_form_is_said_in_words() -> None:
    job = make_job(1, run_at=NOW + timedelta(hours=2), created_at=NOW)
    assert wording.outcome(Enqueued(job, created=True)) == (
        f"Enqueued game_platform_sync as {job.id.hex[-8:]}, due 2026-07-04 14:04:31Z  in 2h.", True)  # fmt: skip
    text, good = wording.outcome(Enqueued(replace(job, dedupe_key="k"), created=False))
    assert not good
    assert str(job.id) in text
    assert UUID(int=job.id.int) == job.id
