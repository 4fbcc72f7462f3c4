"""What a row of the job table says, at each width."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from rich.cells import cell_len

from jobdeck.core.model import Job, Status, TypePause
from jobdeck.core.read.report_types import Standing
from jobdeck.tui.format import shared_fronts, short_id
from jobdeck.tui.widgets.jobs.cells import Moment, cell
from jobdeck.tui.widgets.jobs.columns import layout
from tests.tui.fake import NOW, TYPES, job_id, make_job
from tests.tui.sample import sample


@pytest.mark.parametrize("status", [None, *Status])
@pytest.mark.parametrize("width", [60, 72, 80, 100, 110, 132, 160, 200, 320])
def test_columns_fill_their_width_and_no_more(width: int, status: Status | None) -> None:
    columns = layout(width, status)
    assert columns[-1].x + columns[-1].width == width - 1
    assert [column.id for column in columns[:2]] == ["sign", "task"]
    assert ("status" in {column.id for column in columns}) == (status in {None, Status.PENDING})
    for before, after in pairwise(columns[1:]):
        assert after.x - (before.x + before.width) == (1 if width < 132 else 2)


@pytest.mark.parametrize("status", [None, *Status])
@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_every_list_has_room_for_what_tells_its_rows_apart_and_for_a_time(width: int, status: Status | None) -> None:
    columns = {column.id: column.width for column in layout(width, status)}
    assert columns["what"] >= {60: 14, 80: 25, 100: 26, 120: 34, 200: 60}[width]
    assert {"when", "next", "last"} & set(columns)


ERROR = "MetaCTF answered 403: coach is not on this team"


@pytest.mark.parametrize("status", [None, Status.FAILED])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_row_loses_both_its_arguments_and_its_error(width: int, status: Status | None) -> None:
    job = make_job(1, Status.FAILED, payload={"coach": "Brandt", "season": "2026"}, last_error=ERROR)
    (what,) = (
        "".join(text for text, _ in cell("what", job, column.width, Moment(NOW)))
        for column in layout(width, status)
        if column.id == "what"
    )
    assert what.startswith("coach=Brandt")
    assert ": MetaCTF" in what
    assert what.rstrip().endswith("…") or "not on this team" in what


def test_a_list_of_one_type_does_not_repeat_its_name_and_keeps_the_badges() -> None:
    job = make_job(1, Status.FAILED, payload={"orderId": 5}, is_recurring=True, recurrence_interval_minutes=5)
    columns = layout(80, Status.FAILED, one_type=True)
    assert [column.title for column in columns] == ["", "what", "when"]
    assert "".join(text for text, _ in cell(columns[1].id, job, columns[1].width, Moment(NOW))) == "orderId=5 ↻ 5m"


def test_a_running_job_that_was_asked_to_stop_says_so() -> None:
    job = next(job for job in sample().jobs if job.cancel_requested_at is not None)

    def said(name: str, width: int = 25) -> str:
        return "".join(text for text, _ in cell(name, job, width, Moment(NOW))).strip()

    assert said("progress") == "cancelling  lease 50s"
    assert (said("next"), said("status"), said("when"), said("started")) == (*("cancelling",) * 3, "2m")


@pytest.mark.parametrize("status", [None, *Status])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_cell_is_wider_than_its_column(width: int, status: Status | None) -> None:
    backend = sample()
    moment = Moment(NOW, {job.id: backend.stands(job) for job in backend.jobs}, fronts=shared_fronts(TYPES))
    for job in backend.jobs:
        for column in (*layout(width, status), *layout(width, status, one_type=True)):
            text = "".join(part for part, _ in cell(column.id, job, column.width, moment))
            assert cell_len(text) <= column.width, (column.id, text)


def test_the_columns_of_the_playbook_can_all_be_chosen() -> None:
    asked = ("status", "attempts", "created", "last", "next", "error")
    columns = [column.id for column in layout(160, chosen=asked)]
    assert columns == ["sign", "task", *asked]


def task(name: str, width: int, **facts: Any) -> list[tuple[str, str]]:
    """The cell of a name in a list of the sample's types."""
    moment = Moment(NOW, fronts=shared_fronts(TYPES))
    return [span for span in cell("task", make_job(1, task_type=name, **facts), width, moment) if span[0]]


def test_the_front_that_several_types_share_is_muted_and_gives_way_first() -> None:
    assert task("game_platform_sync", 27) == [("game_platform_", "muted"), ("sync", "text")]
    assert task("game_platform_profile_refresh", 20) == [("…", "muted"), ("profile_refresh", "text")]
    assert task("game_platform_profile_refresh", 10) == [("…", "muted"), ("profile_…", "text")]
    assert task("sms_digest_processor", 12) == [("sms_digest_…", "text")]


@pytest.mark.parametrize("width", [16, 18, 27, 36])
def test_a_badge_is_never_cut(width: int) -> None:
    for name in TYPES:
        cells = task(name, width, is_recurring=True, recurrence_interval_minutes=60, last_run_dry=True)
        assert cells[-2:] == [(" ↻ 60m", "accent"), (" DRY RUN", "warn")]
        assert sum(cell_len(text) for text, _ in cells) <= width


def test_a_front_is_shared_by_three_types_or_more_and_ends_with_a_part() -> None:
    assert shared_fronts(["a_b_x", "a_b_y", "a_b_z", "a_c"]) == ("a_b_", "a_")
    assert shared_fronts(["mail_x", "mail_y", "mailing"]) == ()


def test_a_row_says_why_its_job_does_not_run() -> None:
    job = make_job(1, task_type="sms_digest", attempts=1, last_error="It broke.", payload={"coach": "Kim"})
    pause = TypePause("sms_digest", "Twilio maintenance", "mara@10.0.0.7", NOW, NOW.replace(hour=14, minute=0))

    def said(standing: Standing, of: Job = job) -> str:
        moment = Moment(NOW, {of.id: standing}, {"sms_digest": pause}, {"sms_digest": "2 of 2 places taken"})
        return "".join(text for text, _ in cell("what", of, 80, moment)).strip()

    assert said(Standing.RETRYING) == "coach=Kim: try 2 of 5 · It broke."
    assert said(Standing.PAUSED) == "coach=Kim: by mara until 14:00Z: Twilio maintenance"
    assert said(Standing.AT_LIMIT) == "coach=Kim: 2 of 2 places taken"
    assert said(Standing.CANNOT_RUN) == "coach=Kim: no live worker handles this type"
    waiting = replace(job, blocked_by=job_id(3))
    assert said(Standing.WAITING, waiting) == f"coach=Kim: after {short_id(job_id(3))}"


def test_every_standing_has_a_sign_and_a_word_that_fit() -> None:
    for standing in Standing:
        job = make_job(1)
        moment = Moment(NOW, {job.id: standing})
        assert cell("status", job, 10, moment)[0][0].strip() == standing.value
        assert cell_len(cell("sign", job, 1, moment)[0][0].strip()) == 1
