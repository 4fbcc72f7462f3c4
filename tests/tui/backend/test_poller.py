"""The connection's state machine and the one timer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from jobdeck.core.errors import JobdeckError, SchemaMismatch
from jobdeck.core.model import Filter, Status
from jobdeck.tui.backend.poller import LONGEST_RETRY, Link, LinkState, Poller
from jobdeck.tui.backend.protocol import LONGEST_PAGE, Request, View
from tests.tui.fake import Clock, FakeBackend, lost


class Later:
    """Background work and timers that a test sets off by hand."""

    def __init__(self, answer: Callable[[Request], View]) -> None:
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.delays: list[float] = []
        self.views: list[View] = []
        self.fatal: list[JobdeckError] = []
        self.clock = Clock()
        self.view = answer
        host: Any = self  # a poller uses nothing else of the application
        self.poller = Poller(Request(Filter()), host)

    def background(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.waiting.append((work, done))

    def reach(self) -> Any:
        return self

    def monotonic(self) -> float:
        return self.clock()

    def later(self, seconds: float, callback: Callable[[], None]) -> Later:
        del callback
        self.delays.append(seconds)
        return self

    def reading(self) -> None:
        """Nothing else is on the screen."""

    def take_view(self, view: View) -> None:
        self.views.append(view)

    def link_changed(self) -> None:
        """Nothing is shown here."""

    def give_up(self, error: JobdeckError) -> None:
        self.fatal.append(error)

    def cancel(self) -> None:
        """A timer that is cancelled needs nothing here."""

    def answer(self) -> None:
        work, done = self.waiting.pop(0)
        try:
            result: object = work()
        except (JobdeckError, RuntimeError) as error:
            result = error
        done(result)


def test_a_slow_link_is_never_asked_twice_at_once() -> None:
    later = Later(FakeBackend().view)
    later.poller.poke()
    later.poller.poke()
    later.poller.poke()
    assert len(later.waiting) == 1
    later.answer()
    assert len(later.waiting) == 1


def test_the_timer_is_armed_after_the_answer_and_not_before() -> None:
    later = Later(FakeBackend().view)
    later.poller.poke()
    assert later.delays == []
    later.answer()
    assert later.delays == [2.0]


def test_an_answer_to_a_request_that_was_replaced_is_dropped() -> None:
    later = Later(FakeBackend().view)
    later.poller.poke()
    later.poller.change(Request(Filter(status=Status.FAILED)))
    later.answer()
    assert later.views == []
    later.answer()
    assert len(later.views) == 1


def test_retries_back_off_to_half_a_minute_and_start_over_after_an_answer() -> None:
    backend = FakeBackend()
    backend.failure = lost()
    later = Later(backend.view)
    for _ in range(7):
        later.poller.poke()
        later.answer()
    assert later.delays == [1, 2, 4, 8, 16, LONGEST_RETRY, LONGEST_RETRY]
    backend.failure = None
    later.poller.poke()
    later.answer()
    assert later.poller.connected
    assert later.delays[-1] == 2.0


def test_the_time_of_the_loss_is_that_of_the_first_failure() -> None:
    link = Link().succeeded(10.0).failed(20.0, "away").failed(25.0, "away")
    assert (link.state, link.since, link.failures) == (LinkState.DISCONNECTED, 20.0, 2)
    assert link.succeeded(30.0).since == 30.0


def test_what_cannot_be_mended_by_waiting_ends_the_first_attempt() -> None:
    backend = FakeBackend()
    backend.failure = SchemaMismatch("Run jobdeck init.")
    later = Later(backend.view)
    later.poller.poke()
    later.answer()
    assert later.fatal == [backend.failure]


def test_later_the_same_is_a_lost_connection_and_not_the_end() -> None:
    backend = FakeBackend()
    later = Later(backend.view)
    later.poller.poke()
    later.answer()
    backend.failure = SchemaMismatch("Somebody upgraded.")
    later.poller.poke()
    later.answer()
    assert later.fatal == []
    assert later.poller.link.error == "Somebody upgraded."


def test_an_unforeseen_error_is_logged_and_shown_as_a_lost_connection(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_request: Request) -> View:
        raise RuntimeError("bug")

    later = Later(broken)
    later.poller.poke()
    later.answer()
    assert not later.poller.connected
    assert "Reading the queue failed" in caplog.text


def test_a_frozen_poller_arms_no_timer_but_answers_when_asked() -> None:
    later = Later(FakeBackend().view)
    later.poller.toggle_freeze()
    later.poller.poke()
    later.answer()
    assert later.delays == []
    assert len(later.views) == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_a_focus_that_comes_back_reads_at_once_unless_the_list_is_frozen(frozen: bool) -> None:
    later = Later(FakeBackend().view)
    if frozen:
        later.poller.toggle_freeze()
    later.poller.set_away(True)
    later.poller.set_away(False)
    assert len(later.waiting) == (0 if frozen else 1)


def test_a_stopped_poller_drops_what_still_comes() -> None:
    later = Later(FakeBackend().view)
    later.poller.poke()
    later.poller.stop()
    later.answer()
    later.poller.poke()
    assert later.views == []
    assert later.waiting == []


def test_the_list_grows_to_its_limit_and_no_further() -> None:
    later = Later(FakeBackend().view)
    later.poller.grow(1_000_000)
    assert later.poller.request == replace(Request(Filter()), limit=LONGEST_PAGE)
