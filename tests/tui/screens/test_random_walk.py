"""On any walk the cursor stays on its job, marks on their jobs, and a dialog acts on the ids it showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st
from textual import events

from jobdeck.core.model import Job, Status
from jobdeck.tui.backend.protocol import Request, View
from jobdeck.tui.format import plural, short_id
from jobdeck.tui.widgets.jobs.job_table import MARK
from tests.support.examples import examples
from tests.tui.fake import NOW, FakeBackend, make_job, minutes
from tests.tui.screens.test_acting import ALLOWED
from tests.tui.support import Deck, dashboard

MOVES: Final = ("j", "k", "g", "G", "ctrl+d", "ctrl+u")
MARKS: Final = ("space", "v", "a", "u", "escape")
TABS: Final = dict(zip("123456", (None, *Status), strict=True))
VERBS: Final = {"R": "retry", "C": "cancel", "D": "delete"}
WITH_IDS: Final = (120, 24)
"""A terminal so wide that each row shows the id of its job."""
NAMED_ONE_BY_ONE, WITHOUT_A_WORD, SHOWN_IDS = 3, 25, 6
PATIENCE, ROUNDS = 200, 4


@dataclass(frozen=True)
class Insert:
    """Adds jobs, each some minutes old."""

    ages: tuple[int, ...]


@dataclass(frozen=True)
class Update:
    """Some of the jobs there are take another status."""

    which: tuple[int, ...]
    status: Status


@dataclass(frozen=True)
class Delete:
    """Some of the jobs there are go."""

    which: tuple[int, ...]


@dataclass(frozen=True)
class Refresh:
    """The dashboard reads the queue."""


@dataclass(frozen=True)
class Press:
    """A key of the list."""

    key: str


@dataclass(frozen=True)
class Mark:
    """So many jobs are marked or unmarked, one after the other."""

    number: int


@dataclass(frozen=True)
class Ask:
    """An action is asked for, the queue changes while its dialog is open, and then the dialog is answered."""

    key: str
    meanwhile: tuple[Change, ...]
    yes: bool


Change = Insert | Update | Delete
Step = Change | Refresh | Press | Mark | Ask


def several(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(numbers, min_size=1, max_size=6, unique=True).map(tuple)


PLACES = several(st.integers(0, 99))
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(Insert, several(st.integers(1, 120))),
    st.builds(Update, PLACES, st.sampled_from(Status)),
    st.builds(Delete, PLACES),
)
ASKED = st.builds(
    Ask, st.sampled_from(tuple(VERBS)), st.lists(CHANGES, max_size=2).map(tuple), st.sampled_from((True, True, False))
)
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.just(Refresh()),
    CHANGES,
    st.sampled_from(MOVES).map(Press),
    st.sampled_from(MARKS).map(Press),
    st.builds(Mark, st.integers(2, 14)),
    st.sampled_from(("s", "S", *TABS)).map(Press),
    *[ASKED] * 4,
)


class Queue(FakeBackend):
    """Remembers what it listed last, and can be changed as by others."""

    def __init__(self, number: int) -> None:
        statuses = tuple(Status)
        super().__init__(
            make_job(at, statuses[at % len(statuses)], attempts=at % 5, last_error=f"error {at % 7}")
            for at in range(1, number + 1)
        )
        self.made = number
        self.listed: tuple[Job, ...] = ()

    def view(self, request: Request) -> View:
        view = super().view(request)
        if not request.glance:
            self.listed = view.snapshot.page.jobs
        return view

    def meet(self, change: Change) -> None:
        """Does what others did to the queue."""
        if isinstance(change, Insert):
            for age in change.ages:
                self.made += 1
                self.jobs.append(replace(make_job(self.made), created_at=NOW - minutes(age)))
            return
        chosen = {self.jobs[at % len(self.jobs)].id for at in change.which} if self.jobs else set()
        if isinstance(change, Delete):
            self.jobs = [job for job in self.jobs if job.id not in chosen]
        else:
            self.jobs = [self._updated(job, change.status) if job.id in chosen else job for job in self.jobs]

    @staticmethod
    def _updated(job: Job, status: Status) -> Job:
        version = job.version + 1
        return replace(job, status=status, version=version, attempts=version % 5, last_error=f"error {version}",
                       progress={"done": version, "total": 9}, updated_at=NOW)  # fmt: skip

    @property
    def standing(self) -> dict[UUID, tuple[Status, int]]:
        """Status and version of each job."""
        return {job.id: (job.status, job.version) for job in self.jobs}


class Expected:
    """What a person who has seen all that happened expects to see."""

    def __init__(self, lines: int) -> None:
        self.lines = lines
        self.jobs: tuple[Job, ...] = ()
        self.cursor = 0
        self.top = 0
        self.moved = False
        self.marks: set[UUID] = set()
        self.range_start: UUID | None = None
        self.deletions: list[tuple[UUID, ...]] = []

    @property
    def ids(self) -> list[UUID]:
        return [job.id for job in self.jobs]

    @property
    def current(self) -> UUID | None:
        return self.jobs[self.cursor].id if self.jobs else None

    @property
    def chosen(self) -> set[UUID]:
        """The marked jobs, with those of the open range."""
        if self.range_start is None:
            return self.marks
        low, high = sorted((self.ids.index(self.range_start), self.cursor))
        return self.marks | set(self.ids[low : high + 1])

    @property
    def targets(self) -> list[Job]:
        chosen: set[UUID | None] = {*self.chosen} or {self.current}
        return [job for job in self.jobs if job.id in chosen]

    def read(self, jobs: Sequence[Job]) -> str:
        """Takes another list; returns the expected notice."""
        held, line, ids = self.current, self.cursor - self.top, [job.id for job in jobs]
        at_head = self.top == 0
        lost = self.marks.difference(ids)
        self.jobs, self.marks = tuple(jobs), self.marks.intersection(ids)
        self.range_start = self.range_start if self.range_start in ids else None
        self.cursor = ids.index(held) if held in ids else self._within(self.cursor)
        if not self.moved:
            self.cursor = 0
        self._scroll(max(0, self.cursor - self.lines + 1) if at_head else self.cursor - line)
        said = [f"{short_id(held)} left this list"] if held is not None and held not in ids else []
        said += [f"{plural(len(lost), 'marked job')} left this list, no longer marked"] if lost else []
        return " · ".join(said)

    def home(self) -> None:
        self.jobs, self.cursor, self.top, self.range_start = (), 0, 0, None
        self.marks, self.moved = set(), False

    def move_to(self, index: int) -> None:
        self.cursor, self.moved = self._within(index), True
        self._scroll(min(max(self.top, self.cursor - self.lines + 1), self.cursor))

    def unmark(self) -> None:
        self.marks, self.range_start = set(), None

    def press(self, key: str) -> None:
        """What a key does to cursor and marks."""
        half = self.lines // 2
        steps = {"j": 1, "k": -1, "ctrl+d": half, "ctrl+u": -half, "g": -len(self.jobs), "G": len(self.jobs)}
        if key in steps:
            self.move_to(self.cursor + steps[key])
        elif key == "space" and self.current:
            self.marks = self.marks ^ {self.current}
            self.move_to(self.cursor + 1)
        elif key == "v" and self.range_start is None:
            self.range_start, self.moved = self.current, True
        elif key == "v":
            self.marks, self.range_start, self.moved = self.chosen, None, True
        elif key == "a":
            self.marks, self.range_start = set() if self.marks == set(self.ids) else set(self.ids), None
        elif key == "escape" and self.range_start is not None:
            self.range_start = None
        elif key in {"escape", "u"}:
            self.unmark()

    def _within(self, index: int) -> int:
        return min(max(index, 0), max(len(self.jobs) - 1, 0))

    def _scroll(self, top: int) -> None:
        self.top = min(max(top, 0), max(len(self.jobs) - self.lines, 0))


@dataclass
class Walk:
    """One walk through one dashboard."""

    deck: Deck
    queue: Queue
    expected: Expected
    status: Status | None = None

    async def type(self, *keys: str) -> None:
        """Sends keys, and waits until the dashboard itself takes each to have had its effect.

        `Pilot.press` waits for the clock as well, which makes a thousand keys a minute long.
        """
        app = self.deck.app
        for key in keys:
            app.post_message(events.Key(key, " " if key == "space" else key if len(key) == 1 else None))
        await self.settle()

    async def settle(self) -> None:
        """Waits until no key is held back, and what the last one set off has been seen to."""
        for _ in range(PATIENCE):
            await self.deck.pilot._wait_for_screen()
            if not self.deck.app._typed._busy:
                break
        for _ in range(ROUNDS):
            await self.deck.pilot._wait_for_screen()
        self.deck.app.screen._on_timer_update()

    async def reread(self) -> None:
        """The dashboard reads the queue, if it looks at it."""
        self.deck.app.poller.poke()
        await self.settle()

    async def take(self, step: Step) -> None:
        if isinstance(step, Ask):
            await self.ask(step)
        elif isinstance(step, Press):
            await self.press(step.key)
        elif isinstance(step, Mark):
            await self.type(*["space"] * step.number)
            for _ in range(step.number):
                self.expected.press("space")
        elif isinstance(step, Refresh):
            await self.refresh()
        else:
            self.queue.meet(step)

    async def refresh(self) -> None:
        await self.reread()
        self.read()
        shown = self.deck.screen_text()
        await self.reread()
        assert self.deck.screen_text() == shown, "a refresh that brought nothing new changed the screen"

    async def press(self, key: str) -> None:
        expected = self.expected
        if key == "u" and not expected.marks and expected.range_start is None:
            await self.undo()
            return
        await self.type(key)
        if key in TABS and TABS[key] is not self.status:
            self.status = TABS[key]
            expected.home()
            expected.read(self.queue.listed)
        elif key in {"s", "S"}:
            expected.read(self.queue.listed)
        else:
            expected.press(key)

    async def undo(self) -> None:
        """With nothing marked, `u` takes the last delete back, then the one before; of few it shows the first."""
        expected, calls = self.expected, list(self.queue.calls)
        await self.type("u")
        assert self.queue.calls == calls, "the key alone has changed something"
        if not expected.deletions:
            return
        back = expected.deletions.pop()
        expected.moved = True
        await self.type(*("restore" if len(back) > WITHOUT_A_WORD else ""), "enter")
        assert self.queue.calls == [*calls, ("restore", back)]
        assert set(back) <= set(self.queue.standing)
        expected.read(self.queue.listed)
        if len(back) <= NAMED_ONE_BY_ONE and back[0] in expected.ids:
            expected.move_to(expected.ids.index(back[0]))

    async def ask(self, step: Ask) -> None:
        deck, calls, verb = self.deck, list(self.queue.calls), VERBS[step.key]
        frozen = [job for job in self.expected.targets if job.status in ALLOWED[step.key]]
        unfinished = [job for job in frozen if job.status is not Status.SUCCEEDED]
        if verb == "retry" and unfinished:
            frozen = unfinished
        elif verb == "retry":
            verb = "run-again"
        await self.type(step.key)
        if not frozen:
            assert deck.here == "Dashboard"
            assert self.queue.calls == calls
            return
        self.expected.moved = True
        event(f"asked {'about several' if len(frozen) > 1 else 'about one'}, {'yes' if step.yes else 'no'}")
        self.check_dialog(verb, frozen)
        for change in step.meanwhile:
            self.queue.meet(change)
            await self.reread()
            self.check_dialog(verb, frozen)
            assert [job.id for job in deck.table.jobs] == self.expected.ids
        before = self.queue.standing
        if not step.yes:
            await self.type("escape")
            assert self.queue.calls == calls
            assert self.queue.standing == before
            self.read()
            return
        word = ["space" if letter == "-" else letter for letter in verb]
        await self.type(*([*word, "enter"] if len(frozen) > WITHOUT_A_WORD else ["y"]))
        assert self.queue.calls == [*calls, (verb, tuple(job.id for job in frozen))]
        self.check_deed(verb, frozen, before)
        self.expected.unmark()
        self.expected.read(self.queue.listed)

    def read(self) -> None:
        """What a reading took away is said."""
        said = self.expected.read(self.queue.listed)
        if said:
            assert self.deck.app.dashboard.noticed == said
            assert self.deck.line("peek").startswith(f" {said[:28]}")

    def check_dialog(self, verb: str, frozen: Sequence[Job]) -> None:
        text = self.deck.screen_text()
        assert self.deck.here == "Confirm"
        jobs = plural(len(frozen), "job")
        title = f"Run again: {jobs}" if verb == "run-again" else f"{verb.capitalize()} {jobs}"
        if verb == "retry" and all(job.status is Status.PENDING for job in frozen):
            title = f"Run {jobs} now"
        assert title in text
        for job in frozen[:SHOWN_IDS]:
            assert f"{short_id(job.id)}  {job.task_type}" in text
        assert (f"and {len(frozen) - SHOWN_IDS} more" in text) == (len(frozen) > SHOWN_IDS)

    def check_deed(self, verb: str, frozen: Sequence[Job], before: dict[UUID, tuple[Status, int]]) -> None:
        """Exactly the jobs that are as they were shown were acted on; of the others it is said that they were not."""
        changed = [job.id for job in frozen if before.get(job.id) != (job.status, job.version)]
        done = tuple(job.id for job in frozen if job.id not in changed)
        wanted = dict(before)
        for job in frozen:
            if job.id in done and verb == "delete":
                del wanted[job.id]
            elif job.id in done:
                wanted[job.id] = (Status.CANCELLED if verb == "cancel" else Status.PENDING, job.version + 1)
        assert self.queue.standing == wanted
        toast = self.deck.toasts[-1]
        if verb == "run-again" and len(frozen) > NAMED_ONE_BY_ONE:
            assert not done or f"{plural(len(done), 'job')} run again." in toast
        elif len(frozen) <= NAMED_ONE_BY_ONE:
            assert [one for one in changed if f"{short_id(one)} refused" in toast] == changed
        else:
            assert f"{len(done)} of {len(frozen)} jobs" in toast
        assert ("refused" in toast) == bool(changed)
        if verb == "delete" and done:
            self.expected.deletions.append(done)

    def check(self) -> None:
        """The cursor, its line and the marks, as the table has them and as the terminal shows them."""
        expected, table = self.expected, self.deck.table
        assert [job.id for job in table.jobs] == expected.ids
        assert (table.current.id if table.current else None) == expected.current, "the cursor is on another job"
        assert table.cursor - table.top == expected.cursor - expected.top, "the cursor is on another line"
        assert table.marks == expected.marks, "other jobs are marked"
        above = f"↑{expected.top} " if expected.top else ""
        place = f"{above}{expected.cursor + 1}/{len(expected.jobs)}" if expected.jobs else "0 jobs"
        assert self.deck.line("peek").rstrip().endswith(f" {place}")
        shown = self.deck.screen_text().splitlines()[table.region.y + table.HEAD :]
        for job, line in zip(expected.jobs[expected.top : expected.top + expected.lines], shown, strict=False):
            assert line.startswith(MARK if job.id in expected.chosen else " ")
            assert short_id(job.id) in line


@pytest.mark.slow
@given(st.sampled_from((0, 1, 5, 30, 45, 60)), st.lists(STEPS, min_size=15, max_size=25))
@settings(max_examples=examples(60), deadline=None)
async def test_cursor_marks_and_dialogs_stay_with_their_jobs_on_any_walk(number: int, steps: list[Step]) -> None:
    queue = Queue(number)
    async with dashboard(queue, interval=3600.0, size=WITH_IDS) as deck:
        walk = Walk(deck, queue, Expected(deck.table.lines))
        walk.expected.read(queue.listed)
        walk.check()
        for place, step in enumerate(steps, start=1):
            note(f"{place}. {step}: before it cursor {walk.expected.cursor}, top {walk.expected.top}, "
                 f"{len(walk.expected.marks)} marked of {len(walk.expected.jobs)}")  # fmt: skip
            await walk.take(step)
            walk.check()


async def test_a_job_that_was_taken_back_into_another_tab_does_not_fetch_the_cursor_at_a_later_refresh() -> None:
    queue = FakeBackend([make_job(at, Status.FAILED if at == 1 else Status.PENDING) for at in range(1, 6)])
    async with dashboard(queue, "5", "D", "y", "2", "u", "enter") as deck:
        held = deck.table.current
        queue.jobs = [replace(job, status=Status.PENDING, version=job.version + 1) for job in queue.jobs]
        await deck.refresh()
        assert held is not None
        assert deck.table.current is not None
        assert deck.table.current.id == held.id
