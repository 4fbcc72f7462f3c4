"""The box `now`: what is wrong, worst first, and where the key leads; on a calm day what comes next."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

import pytest

from jobdeck.core.model import Filter, Finding, Health, Processing, TypePause, Verdict
from jobdeck.core.read.sentences import DUE
from jobdeck.tui.actions import key_of
from jobdeck.tui.backend.protocol import EmbeddedWorker, Request, View
from jobdeck.tui.shape import Shape
from jobdeck.tui.text.first import now
from jobdeck.tui.text.first.top import top
from tests.tui.fake import NOW, FakeBackend

WORST = Finding("failures", Verdict.CRITICAL, "sms_digest: 71 % of runs failed in the last 15 minutes (213 of 300).",
                NOW, subject="sms_digest")  # fmt: skip
SILENT = Finding("silent workers", Verdict.WARNING, "Workers without a heartbeat that did not sign off: vm-1 for 3m.")


def view(*findings: Finding, enabled: bool = True, pauses: tuple[TypePause, ...] = ()) -> View:
    backend = FakeBackend()
    verdict = findings[0].verdict if findings else Verdict.OK
    backend.health = Health(verdict, findings, finished_per_minute=(9, 14, 3), failed_per_minute=(0, 2, 0))
    backend.processing = Processing(enabled=enabled, paused_types=pauses)
    found = backend.view(Request(Filter()))
    return replace(found, snapshot=replace(found.snapshot, next_due=("sms_digest", NOW + timedelta(minutes=4))))


def text(found: View, width: int, height: int) -> list[str]:
    rows, _ = now.lines(now.items(found), width, height, key_of)
    return ["".join(text for text, _ in row).rstrip() for row in rows]


def test_a_calm_queue_says_so_and_what_comes_next() -> None:
    assert text(view(), 78, 2) == [
        "✓ All well, no backlog; last minute 12 ok, 2 failed",
        "○ next series: sms_digest in 4m" + " " * 46 + "2",
    ]


@pytest.mark.parametrize(("failed", "words"), [(1, "1 failed job waits"), (2, "2 failed jobs wait")])
def test_a_calm_queue_names_the_failed_jobs_that_only_a_person_ends(failed: int, words: str) -> None:
    found = view()
    counts = replace(found.snapshot.counts, failed=failed)
    found = replace(found, snapshot=replace(found.snapshot, counts=counts))
    assert text(found, 78, 3)[:2] == [
        "✓ No alarm, no backlog; last minute 12 ok, 2 failed",
        f"· {words} for a retry or a deletion".ljust(77) + "5",
    ]


def test_the_second_half_of_a_line_is_below_it_while_there_is_room_worst_first() -> None:
    assert text(view(WORST, SILENT), 40, 4) == [
        "✗ sms_digest: 71 % of runs failed in   e",
        "  the last 15 minutes (213 of 300); cri…",
        "! Workers without a heartbeat that     m",
        "  did not sign off: vm-1 for 3m",
    ]


def test_a_line_goes_on_while_there_is_room_so_that_its_end_is_read() -> None:
    assert text(view(WORST), 40, 5)[:3] == [
        "✗ sms_digest: 71 % of runs failed in   e",
        "  the last 15 minutes (213 of 300);",
        "  critical since 12:04Z",
    ]


def test_below_an_alarm_the_failed_jobs_are_named_while_there_is_room() -> None:
    found = view(WORST)
    counts = replace(found.snapshot.counts, failed=15)
    found = replace(found, snapshot=replace(found.snapshot, counts=counts))
    assert text(found, 120, 2)[1] == "· 15 failed jobs wait for a retry or a deletion".ljust(119) + "5"
    assert not any("wait for a retry" in line for line in text(found, 120, 1))


def test_what_has_no_room_is_counted() -> None:
    found = text(view(WORST, SILENT, SILENT, SILENT), 60, 2)
    assert len(found) == 2
    assert found[1].endswith("m  +2")


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (
            "push: 9 % of runs failed (7 of 75); green",
            "push: 9 % of runs failed (7 of 75); most common error: 429; green",
        ),
        ("push: 30 runs with a new error: vendor is #; 9 % of 300 runs failed; green", None),
        ("push: recovering since 12:00Z: 1 % of runs failed; green", None),
        ("push: something else.", None),
    ],
)
def test_the_most_common_error_is_said_before_the_end_unless_an_error_is_named(evidence: str, told: str | None) -> None:
    assert now.with_error(evidence, "429") == (told or evidence)


def test_an_error_is_as_long_as_a_line_of_its_box() -> None:
    evidence, error = "push: 9 % of runs failed (7 of 75); green", " ".join(["the vendor answered"] * 6)
    assert f"error: {error}; green" in now.with_error(evidence, error, 139)
    assert now.with_error(evidence, error, 40) == now.with_error(evidence, error)
    assert "the vendor answered…; green" in now.with_error(evidence, error)


@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.PAUSED])
def test_the_longest_wait_names_the_type_and_the_cause_that_health_found(verdict: Verdict) -> None:
    since = NOW - timedelta(minutes=12)
    why = Finding(DUE, verdict, "Oldest job waiting 12m: push. All 8 thread slots are busy.", since)
    found = view(why)
    health = replace(found.snapshot.health, oldest_due=since)
    found = replace(found, snapshot=replace(found.snapshot, health=health))
    assert any(line.startswith("! Oldest job waiting 12m: push. All 8 thread slots are busy  ")
               for line in text(found, 120, 4))  # fmt: skip
    assert not any("longest wait" in line for line in text(found, 120, 4))


def test_a_paused_type_is_named_with_who_why_and_until_when() -> None:
    pause = TypePause("sms_digest", "Twilio is down", "bob@10.0.0.9", NOW - timedelta(minutes=12),
                      NOW + timedelta(minutes=30))  # fmt: skip
    found = text(view(pauses=(pause,)), 120, 4)
    who = "‖ sms_digest paused since 11:52Z by bob@10.0.0.9: Twilio is down"
    assert found[1].startswith(f"{who} · resumes in 30m · its jobs are kept")
    assert found[1].endswith("P")


@pytest.mark.parametrize(
    ("state", "since", "connects"),
    [("running", None, True), ("off", None, False), ("draining", None, False), ("running", NOW, False)],
)
def test_while_the_worker_in_the_dashboard_connects_nobody_is_told_to_start_one(
    state: Literal["off", "running", "draining"], since: datetime | None, *, connects: bool
) -> None:
    none = Finding("workers", Verdict.CRITICAL, "No worker has connected yet. Start one.", since)
    said = text(replace(view(none), worker=EmbeddedWorker(state)), 78, 3)[0]
    assert said.startswith("○ The worker in this dashboard is connecting" if connects else "✗ No worker has connected")
    assert said.endswith("m")


def test_while_everything_is_paused_nothing_is_called_well() -> None:
    assert not any("All well" in line for line in text(view(enabled=False), 78, 4))


def test_a_slow_database_comes_first() -> None:
    assert now.items(view(WORST), 4.0)[0].words == "Database slow: 4s"


@pytest.mark.parametrize("size", [(60, 12), (80, 24), (80, 35), (100, 30), (120, 35), (200, 50)])
def test_the_lines_fill_exactly_the_room_that_the_shape_gives_them(size: tuple[int, int]) -> None:
    parts = Shape(*size).parts()
    rows, actions = top(view(WORST, SILENT), None, Shape(*size), key=key_of)
    assert len(rows) == parts["tabs"].y - parts["now"].y
    assert all(sum(len(text) for text, _ in row) <= size[0] for row in rows)
    assert "page.errors" in actions
