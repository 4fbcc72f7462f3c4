"""Values as text: ages, counts, payloads, columns, themes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.color import ColorSystem
from textual.color import Color
from textual.theme import Theme

from jobdeck.core.model import Job, RunOutcome, Status
from jobdeck.core.schedules import NO_SLOT
from jobdeck.tui.format import (
    LONGEST_LINE,
    age,
    due,
    duration,
    fit,
    job_json,
    middle,
    one_line,
    payload_summary,
    seconds,
    sparkline,
    wrapped,
)
from jobdeck.tui.text import job_detail
from jobdeck.tui.themes import DARK, OF_256, THEMES, of
from jobdeck.tui.widgets.jobs.cells import Moment, cell
from jobdeck.tui.widgets.jobs.columns import layout
from jobdeck.tui.widgets.status_bar import peek
from tests.tui.fake import NOW, make_job, minutes


@pytest.mark.parametrize(("value", "text"), [
    (timedelta(seconds=59), "<1m"), (minutes(1), "1m"), (minutes(119), "119m"), (minutes(120), "2h"),
    (timedelta(hours=47), "47h"), (timedelta(hours=48), "2d"), (-minutes(5), "5m"),
])  # fmt: skip
def test_ages_have_one_unit(value: timedelta, text: str) -> None:
    assert age(value) == text


@pytest.mark.parametrize(("late", "said"), [
    (-30.0, ("in 30m", "text")), (-0.5, ("in <1m", "text")), (0.5, ("due now", "text")), (1, ("due 1m ago", "warn")),
    (14.9, ("due 14m ago", "warn")), (15, ("due 15m ago", "bad")),
])  # fmt: skip
def test_lateness_is_said_with_a_word_and_an_ink(late: float, said: tuple[str, str]) -> None:
    assert due(NOW - minutes(late), NOW) == said


def test_a_series_without_slots_is_due_at_no_time() -> None:
    assert due(NO_SLOT, NOW) == ("no slot yet", "warn")


@pytest.mark.parametrize(("text", "said"), [
    ("\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f469\U0001f469\U0001f467"), ("\u26a0\ufe0f", "\u26a0"),
    ("\U0001f44d\U0001f3fd", "\U0001f44d"), ("1\ufe0f\u20e3", "1"), ("\u738b\u5c0f\u660e", "\u738b\u5c0f\u660e"),
])  # fmt: skip
def test_pictures_that_terminals_draw_in_different_widths_are_taken_apart(text: str, said: str) -> None:
    assert one_line(text) == said


def shown(job: Job, width: int) -> dict[str, str]:
    """The text of each column for a job, by the id of the column."""
    return {
        column.id: "".join(text for text, _ in cell(column.id, job, column.width, Moment(NOW))).strip()
        for column in layout(width)
    }


@pytest.mark.parametrize("width", [100, 120, 200])
def test_a_job_that_was_cancelled_before_it_ever_ran_has_no_last_run(width: int) -> None:
    never = make_job(1, Status.CANCELLED, last_outcome=RunOutcome.CANCELLED, completed_at=NOW - minutes(1))
    assert shown(never, width)["last"] == "-"
    assert shown(replace(never, last_run_at=NOW - minutes(1)), width)["last"].startswith("⊘")


def test_what_is_not_known_of_a_job_that_left_the_queue_is_a_dash() -> None:
    left = make_job(1, Status.SUCCEEDED, removed=True, attempts=1, max_attempts=None, created_at=None, priority=None)
    cells = shown(left, 160)
    assert (cells["attempts"], cells["created"]) == ("1/-", "-")
    page = job_detail.left(job_detail.Page(left, None, NOW)).plain
    assert "attempts      1 of -\n" in page
    assert "created       -\n" in page
    assert "1/-" in "".join(text for text, _ in job_detail.title(left, NOW)[0])


def test_a_run_that_ended_after_the_time_of_its_page_is_not_said_to_come() -> None:
    ended = NOW + timedelta(seconds=2)
    job = make_job(1, last_run_at=ended, last_success_at=ended, created_at=ended, run_at=ended)
    page = job_detail.left(job_detail.Page(job, None, NOW)).plain
    said = {line.split("  ")[0]: line for line in page.splitlines() if "<1m" in line}
    assert {name for name, line in said.items() if "in <1m" in line} == {"next run"}
    assert {name for name, line in said.items() if "<1m ago" in line} == {"created", "last run", "last success"}


def test_durations_and_seconds() -> None:
    assert [duration(timedelta(seconds=value)) for value in (0.44, 12, 185, 7_260)] == [
        "0.4s",
        "12s",
        "3m 05s",
        "2h 01m",
    ]
    assert [seconds(value) for value in (4.9, 119, 240)] == ["4s", "119s", "4m"]


def test_fitting_counts_cells_and_not_characters() -> None:
    assert fit("漢字漢字", 5) == "漢字…"
    assert cell_len(fit("x", 4)) == 4
    assert middle("game_platform_onboard_competitors", 16).endswith("ompetitors")
    assert cell_len(middle("game_platform_onboard_competitors", 16)) == 16


def test_a_payload_summary_leaves_out_what_says_nothing() -> None:
    payload = {
        "coachId": None,
        "dryRun": True,
        "force": False,
        "all": True,
        "size": 50,
        "ids": ["a", "b"],
        "o": {"x": 1},
    }
    assert payload_summary(payload) == "all size=50 ids=[2] o={…}"


def test_a_payload_summary_is_masked_before_it_is_cut() -> None:
    payload = {"a": "jane-d-o-e@example-of-an-address.org", "password": ["hunter2"], "list": ["kim@example.org"]}
    assert payload_summary(payload) == "a=<email> password=<private> list=<email>"
    assert payload_summary({"id": "01234567-1234-4234-8234-0123456789ab"}) == "id=01234567…"


@pytest.mark.parametrize("length", range(LONGEST_LINE - 24, LONGEST_LINE + 1))
def test_a_line_is_masked_before_it_is_cut(length: int) -> None:
    line = one_line(f"{'x' * length} jane.doe@example.org and more")
    assert "jane" not in line
    assert len(line) <= LONGEST_LINE + len("<email>")


def test_a_sparkline_is_as_long_as_its_values() -> None:
    assert sparkline([0, 5, 10]) == "▁▄█"
    assert sparkline([0, 0]) == "▁▁"


def test_a_copied_job_masks_personal_data_and_keeps_its_times() -> None:
    shown = job_json(make_job(1, payload={"to": "kim@example.org"}))
    assert shown["payload"] == {"to": "<email>"}
    assert shown["created_at"] == "2026-07-04T12:03:31Z"


@pytest.mark.parametrize("theme", [*THEMES, *OF_256], ids=lambda theme: theme.name)
def test_every_ink_can_be_read_on_its_background(theme: object) -> None:
    background = Color.parse(theme.background)  # type: ignore[attr-defined]
    cursor = Color.parse(theme.variables["cursor-background"])  # type: ignore[attr-defined]
    inks = ["primary", "accent", "success", "warning", "error", "foreground"]
    colours = [Color.parse(getattr(theme, name)) for name in inks]
    colours.append(Color.parse(theme.variables["ink-muted"]))  # type: ignore[attr-defined]
    for colour in colours:
        assert contrast(colour, background) >= 4.5, colour
        assert contrast(colour, cursor) >= 3, colour


@pytest.mark.parametrize("theme", OF_256, ids=lambda theme: theme.name)
def test_the_themes_for_256_colours_have_colours_of_the_palette_alone(theme: Theme) -> None:
    names = ("primary", "accent", "success", "warning", "error", "foreground", "background", "surface", "panel")
    for colour in (*(getattr(theme, name) for name in names), *theme.variables.values()):
        parts = {colour[at : at + 2] for at in (1, 3, 5)}
        grey = len(parts) == 1 and (int(parts.copy().pop(), 16) - 8) % 10 == 0
        assert grey or parts <= {"00", "5F", "87", "AF", "D7", "FF"}, colour


def test_the_dark_theme_for_256_colours_is_shown_in_the_greys_that_were_chosen() -> None:
    dark = next(theme for theme in of(few_colours=True) if theme.name == DARK.name)
    wanted = {dark.background: 234, dark.panel: 236, dark.variables["cursor-background"]: 237}
    assert {name: RichColor.parse(str(name)).downgrade(ColorSystem.EIGHT_BIT).number for name in wanted} == wanted


def contrast(one: Color, other: Color) -> float:
    """The contrast ratio of WCAG 2.1."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: Color) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_text_is_wrapped_by_what_it_takes_on_the_screen() -> None:
    text = "The type 游戏平台同步任务处理器非常长的名字需要截断 is not paused."
    for width in (20, 24, 40, 60):
        lines = wrapped(text, width)
        assert all(cell_len(line) <= width for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped(text, 60) == [text.removesuffix(" paused."), "paused."]
    assert wrapped("one-time jobs leave", 10) == ["one-time", "jobs leave"]
    assert wrapped("", 10) == [""]


def test_a_job_that_a_worker_has_only_claimed_is_nowhere_said_to_run() -> None:
    job = make_job(1, Status.RUNNING, started_at=None, locked_by="host-1", lease_expires_at=NOW + minutes(1))
    title = "".join(text for text, _ in job_detail.title(job, NOW)[0])
    left, _ = peek(job, 0, "1/1", ranging=False)
    cells = ["".join(text for text, _ in cell(name, job, 12, Moment(NOW))).strip() for name in ("sign", "status")]
    assert cells == ["◌", "claimed"]
    assert "◌ claimed" in title
    assert "claimed on host-1" in "".join(text for text, _ in left)
    assert "running" not in title
    begun = replace(job, started_at=NOW)
    assert "● running" in "".join(text for text, _ in job_detail.title(begun, NOW)[0])
