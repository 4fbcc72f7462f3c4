"""Workers, audit and digest, playbook, log."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from jobdeck.core import registry
from jobdeck.core.errors import JobFailure
from jobdeck.core.logs import event
from jobdeck.core.queue.producers import tasks
from jobdeck.tui.backend.protocol import EmbeddedWorker
from jobdeck.tui.backend.worker_log import LINES, LONGEST_LINE, WorkerLog
from jobdeck.tui.format import short_id
from jobdeck.tui.text import playbook
from jobdeck.tui.widgets.pane import Entry
from tests.tui.fake import NOW, TYPES, FakeBackend, job_id, minutes
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, dashboard, said, shown

ROOT = Path(__file__).parents[3]
SOURCE = playbook.source
"""The page as it is shipped; the tests have one of their own in its place."""
PLAYBOOK_TYPES = (*TYPES, "game_platform_onboard_coaches", "game_platform_flash_ctf_sync")


def kinds() -> set[str]:
    """The `kind` of every failure that the program raises on purpose."""
    for module in (
        "jobdeck.core.programme.vendors.errors",
        "jobdeck.core.programme.vendors.metactf_errors",
        "jobdeck.core.programme.messaging.templates",
    ):
        importlib.import_module(module)
    found: set[str] = set()
    waiting: list[type[JobFailure]] = [JobFailure]
    while waiting:
        failure = waiting.pop()
        waiting += failure.__subclasses__()
        if failure.__module__.startswith("jobdeck.core."):
            found.add(failure.kind)
    return found - GENERAL


GENERAL = {"failed", "cancelled", "vendor", "messaging", "game_platform"}
"""Kinds that say no more than that something failed, and the one of a run that was asked to stop."""


# Workers


async def test_each_worker_is_told_with_what_it_runs() -> None:
    text = await shown(sample(), "m")
    assert "2 workers alive, 4 of 8 thread slots taken" in text
    at = text.splitlines().index(next(line for line in text.splitlines() if "web-1:4242" in line))
    assert "2 of 4 thread slots" in text.splitlines()[at]
    assert "web-1 pid 4242, version 0.1.0" in text.splitlines()[at + 1]
    assert "game_platform_totals_sweep" in text.splitlines()[at + 3]
    assert "62%" in text.splitlines()[at + 3]


async def test_a_worker_that_is_silent_is_gone_and_its_jobs_are_seen() -> None:
    backend = sample()
    backend.workers = tuple(
        replace(one, alive=False, heartbeat_at=NOW - minutes(7)) if one.id == "here" else one for one in backend.workers
    )
    text = await shown(backend, "m")
    assert "○ gone   here" in text
    assert "heartbeat 7m ago" in text


async def test_types_nobody_handles_versions_that_differ_and_jobs_of_nobody_are_said() -> None:
    backend = sample()
    backend.evidence.unhandled = ("unheard_of",)
    backend.workers = (replace(backend.workers[0], version="0.0.9"), backend.workers[1])
    backend.jobs[0] = replace(backend.jobs[0], locked_by="long gone")
    text = await shown(backend, "m")
    assert "✗ No live worker handles these waiting jobs: unheard_of" in text
    assert "⚠ Live workers have different versions: 0.0.9, 0.1.0" in text
    assert "Held by workers that are no longer listed" in text


@pytest.mark.slow
async def test_the_worker_inside_is_marked_and_the_worker_keys_are_at_hand() -> None:
    backend = sample()
    backend.embedded = replace(backend.embedded, id="here")
    async with dashboard(backend, "m") as deck:
        assert "headless, here" in deck.screen_text()
        await deck.press("W")
        assert backend.calls == [("stop", None)]


@pytest.mark.slow
async def test_enter_opens_the_job_under_the_cursor() -> None:
    async with dashboard(sample(), "m", "j", "j", "j", "enter") as deck:
        assert deck.here == "JobDetailScreen"
        assert str(job_id(2)) in deck.screen_text()


# Audit and digest


@pytest.mark.slow
async def test_the_digest_of_the_shift_stands_above_what_operators_did() -> None:
    text = await shown(sample(), "o", size=LARGE)
    for part in (
        "Audit: last 8 h", "jobdeck digest --since 8h", "1,240 succeeded, 12 runs retried",
        "5 failed permanently",
        "alice@10.0.0.7 (jobdeck): paused 1, resumed 1, retried 1", "NEW sms_digest_processor: 2 runs",
        "game_platform_onboard_competitors: 9 runs", "19 cron_http, 1 manual",
        "pause processing by alice@10.0.0.7 (jobdeck): MetaCTF is down", "wrong coach", "failed → cancelled",
    ):  # fmt: skip
        assert part in text, part
    assert "NEW game_platform_onboard_competitors" not in text


@pytest.mark.slow
async def test_another_time_can_be_looked_at() -> None:
    async with dashboard(sample(), "o", "t") as deck:
        assert "Audit: last 24 h" in deck.screen_text()
        await deck.press("t", "t")
        assert "Audit: last 1 h" in deck.screen_text()
        assert "bob@10.0.0.9" not in deck.screen_text()


@pytest.mark.slow
async def test_enter_opens_the_job_of_an_entry_wherever_it_is() -> None:
    backend = sample()
    gone = backend.jobs.pop(7)
    async with dashboard(backend, "o", "G", "k", "k", "enter") as deck:
        assert deck.here == "JobDetailScreen"
        assert f"Job {short_id(gone.id)}" in deck.screen_text()
        assert "This job no longer exists" in deck.screen_text()


@pytest.mark.slow
async def test_an_entry_about_no_job_says_so() -> None:
    assert "Nothing to open on this line." in await said(sample(), "o", "enter")


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x50"])
async def test_alike_actions_on_many_jobs_are_one_line(size: tuple[int, int]) -> None:
    backend = sample()
    backend.evidence.many = {1: 2_145}
    async with dashboard(backend, "o", "G", *"kkkkk", size=size) as deck:
        line = next(line for line in deck.screen_text().splitlines() if "2,145 jobs" in line)
        assert " retry " in line
        assert "game_pla" in line
        assert "→" not in line
        await deck.press("enter")
        assert "This line is about many jobs. b lists the bulk actions." in deck.toasts[-1]


@pytest.mark.slow
async def test_a_shift_in_which_nobody_did_anything() -> None:
    assert "No operator actions." in await shown(FakeBackend(), "o")


# Playbook


def texts(entries: list[Entry]) -> list[str]:
    return ["".join(text for text, _ in one.spans) for one in entries]


async def test_a_type_of_an_application_brings_its_part_of_the_playbook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playbook, "source", SOURCE)
    monkeypatch.setattr(registry, "registrations", [*registry.registrations])
    tasks.job("send_invoice", playbook="Ask **billing** first.\n\nThen retry it.")(lambda _params, _ctx: None)
    assert playbook.advice("send_invoice", None) == ["Ask billing first.", "Then retry it."]
    assert playbook.OWN_TYPES in playbook.sections()


@pytest.mark.slow
async def test_the_playbook_is_read_inside_and_walked_by_sections() -> None:
    async with dashboard(sample(), "p", size=(80, 14)) as deck:
        assert "Operations" in deck.screen_text()
        for _ in range(2):
            await deck.press("right_square_bracket")
        assert deck.screen_text().splitlines()[1] == " When a type fails"
        assert "Playbook  When a type fails" in deck.screen_text()
        await deck.press("left_square_bracket")
        assert deck.screen_text().splitlines()[1] == " Daily monitoring"
        await deck.press("j", "left_square_bracket")
        assert deck.screen_text().splitlines()[1] == " Daily monitoring"
        await deck.press(*("left_square_bracket",) * 3)
        assert deck.screen_text().splitlines()[1] == " Operations"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_of_the_playbook_is_wider_than_the_screen_and_no_word_is_lost(width: int) -> None:
    lines = texts(playbook.entries(width))
    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    for words in (
        "? lists the keys, and nothing here is elsewhere.", "and gaps drawn as gaps.",
        'error:timeout" --dry-run --limit 1000 --json', "its handler is asked to stop as soon as it looks",
        "• messaging_config: a setting is missing. Correct it, then retry.",
    ):  # fmt: skip
        assert words in shown, words


def test_a_table_that_fits_is_one_and_one_that_does_not_becomes_a_list() -> None:
    narrow = texts(playbook.entries(60))
    assert " a  b" in [line.rstrip() for line in narrow]
    assert "   command    jobdeck cancel ID" in [line.rstrip() for line in narrow]
    wide = texts(playbook.entries(120))
    assert any(line.split() == ["action", "key", "command", "pending", "running"] for line in wide)


def test_the_advice_is_that_of_the_kind_and_then_of_the_type() -> None:
    assert playbook.advice("game_platform_totals_sweep", "messaging_config") == [
        "A setting is missing. Correct it, then retry.",
        "Adds up scores. A retry is harmless.",
    ]
    assert playbook.advice("unheard_of", None) == []


class TestTheRealPage:
    """docs/operations.md with the plugin's part, as they are shipped."""

    @pytest.fixture(autouse=True)
    def page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(playbook, "source", SOURCE)

    @pytest.mark.parametrize("width", [60, 80, 200])
    def test_it_fits_the_screen(self, width: int) -> None:
        assert max(map(len, texts(playbook.entries(width)))) <= width

    @pytest.mark.parametrize("task_type", PLAYBOOK_TYPES)
    def test_it_has_advice_for_every_type_of_the_playbook(self, task_type: str) -> None:
        assert playbook.advice(task_type, None)

    def test_it_has_advice_for_every_kind_of_failure_that_the_program_has(self) -> None:
        assert [kind for kind in sorted(kinds()) if not playbook.advice("", kind)] == []


# Log


@pytest.mark.slow
async def test_the_log_shows_what_the_worker_inside_says_and_follows() -> None:
    async with dashboard(sample()) as deck:
        logger = logging.getLogger("tests.somewhere")
        with deck.app.log_lines.attached():
            for number in range(40):
                event(logger, logging.INFO, "claimed", jobs=number)
            await deck.press("l")
            assert "claimed jobs=39" in deck.screen_text()
            event(logger, logging.WARNING, "the lease of a run is lost", run=7)
            deck.app.tick()
            await deck.pilot.pause()
            assert "WARNING tests.somewhere the lease of a run is lost run=7" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["off", "running"])
async def test_an_empty_log_says_how_to_fill_it_unless_the_worker_is_there(state: Literal["off", "running"]) -> None:
    backend = FakeBackend()
    backend.embedded = EmbeddedWorker(state)
    text = await shown(backend, "l")
    assert "Nothing has been logged yet." in text
    assert ("W on the list starts the worker" in text) is (state == "off")


@pytest.mark.slow
def test_the_log_is_harmless_redacted_and_bounded() -> None:
    log = WorkerLog()
    logger = logging.getLogger("tests.elsewhere")
    with log.attached():
        logger.info("wrote to kim@example.org \x1b]52;c;x\x07 %s", "y" * 5000)
        for number in range(LINES + 10):
            logger.info("line %d", number)
    logger.info("after")
    first = WorkerLog()
    with first.attached():
        logger.info("wrote to kim@example.org \x1b]52;c;x\x07 %s", "y" * 5000)
    assert len(log.lines) == LINES
    assert "after" not in log.lines[-1]
    (line,) = first.lines
    assert "kim@" not in line
    assert line.isprintable()
    assert len(line) == LONGEST_LINE


def test_a_record_that_cannot_be_formatted_fails_nobody() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no words")

    log = WorkerLog()
    log.handle(logging.LogRecord("tests.bad", logging.INFO, "", 1, "said %s", (Bad(),), None))
    assert "said %s (arguments cannot be formatted: RuntimeError)" in log.lines[-1]


@pytest.mark.slow
async def test_the_digest_is_copied_as_markdown_for_the_hand_over() -> None:
    async with dashboard(sample(), "o", "y") as deck:
        assert deck.app.clipboard.startswith("# Hand-over ")
        assert "jobdeck digest --since 8h --markdown" in deck.toasts[-1]
