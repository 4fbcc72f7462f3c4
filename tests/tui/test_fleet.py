"""The page of several databases, and the way from it into one of them and back."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from textual.pilot import Pilot

from jobdeck.core.errors import SchemaMismatch
from jobdeck.core.fleet import Member, Reading, Timeouts, Trouble, members
from jobdeck.core.model import Finding, Health, Verdict
from jobdeck.core.read.pages.overview import DatabaseFigures
from jobdeck.core.read.report_types import Counts
from jobdeck.core.settings import Settings
from jobdeck.tui import run
from jobdeck.tui.actions import offered
from jobdeck.tui.app import JobdeckApp
from jobdeck.tui.backend.protocol import EmbeddedWorker
from jobdeck.tui.deck import Options
from jobdeck.tui.fleet.app import FleetApp
from tests.support.queue import Connection
from tests.support.waiting import becomes
from tests.tui.fake import NOW, Clock
from tests.tui.support import RARELY, SMALL, Held, dashboard, failed

AWAY = "postgresql://bob:hunter2@127.0.0.1:1/gone"


class FakeMember(Member):
    """A database whose next readings are given; the last one stays."""

    def __init__(self, name: str, *readings: Reading) -> None:
        super().__init__(name, f"db.example.org/{name}", Settings(), Timeouts(()))
        self.readings = list(readings)
        self.reads = 0

    def read(self) -> Reading:
        self.reads += 1
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


def figures(verdict: Verdict = Verdict.OK, *, pending: int = 0, failed: int = 0, wait: int | None = None,
            evidence: str = "Oldest job waiting 40m.") -> DatabaseFigures:  # fmt: skip
    since = None if wait is None else NOW - timedelta(minutes=wait)
    found = (Finding("due jobs", verdict, evidence, since), Finding("workers", Verdict.OK, "2 workers alive."))
    return DatabaseFigures(NOW, Counts(pending=pending, failed=failed), 2, Health(verdict, found, oldest_due=since))


def away(brief: str = "Connection refused; check Postgres there") -> Trouble:
    return Trouble("away", brief, "The database at db does not answer. Check its address.", 3)


UNUSABLE = Trouble("unusable", "no schema; run `jobdeck init` there", "It holds no schema. Run `jobdeck init`.")


class Shown:
    """A running page."""

    def __init__(self, app: FleetApp, pilot: Pilot[int]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def lines(self) -> list[str]:
        width, height = self.app.size
        return [strip.text[:width].rstrip() for strip in self.app.screen._compositor.render_strips()[:height]]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def order(self) -> list[str]:
        """The names, from the first line to the last."""
        return [key[1] for one in self.app.fleet.pane.entries if isinstance(key := one.key, tuple)]

    def line_of(self, name: str) -> str:
        return next(line for line in self.lines[2:] if line.startswith(f" {name} "))

    @property
    def toasts(self) -> list[str]:
        return [toast.message for toast in self.app._notifications]

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()


@asynccontextmanager
async def shown(fleet: Sequence[Member], size: tuple[int, int] = SMALL, **given: Any) -> AsyncIterator[Shown]:
    """The page, with an interval that no test lives to see the end of unless the test gives one."""
    options = Options(ticking=False, interval=given.pop("interval", RARELY), mouse=given.pop("mouse", False))
    app = FleetApp(fleet, options, **given)
    try:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            yield Shown(app, pilot)
    finally:
        app.databases.close()


@pytest.mark.slow
async def test_each_database_says_what_is_wrong_with_it_while_the_others_are_shown(
    database_url: str, empty_database_url: str, conn: Connection
) -> None:
    conn.execute("INSERT INTO job_queue (task_type, run_at, created_at) SELECT 'a', t, t"
                 " FROM (SELECT now() - interval '50 minutes' FROM generate_series(1, 12)) AS waiting (t)")  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"postgresql://bob:hunter2@127.0.0.1:{silent.getsockname()[1]}/hang?connect_timeout=600"
        urls = {"good": database_url, "bare": empty_database_url, "hanging": hanging, "gone": AWAY}
        settings = Settings.model_validate({"databases": urls})
        async with shown(members(settings)) as page:
            known = ("critical", "no schema; run `jobdeck init` there", "Connection refused; check Postgres there")
            await becomes(lambda: all(word in page.text for word in known), lambda: page.text)
            assert page.order == ["gone", "good", "bare", "hanging"]
            assert "reading…" in page.line_of("hanging")
            _name, state, _age, *numbers = page.line_of("good").split()
            assert (state, numbers[:4]) == ("critical", ["12", "0", "0", "50m"])
            assert "bob" not in page.text
            assert max(map(len, page.lines)) <= 80


async def test_a_database_that_does_not_answer_is_slow_and_is_asked_no_second_time() -> None:
    clock, held = Clock(), Held(holding=True)
    stuck = FakeMember("stuck", figures())
    async with shown([stuck], background=held, monotonic=clock) as page:
        assert "reading…" in page.line_of("stuck")
        clock.now += 12
        page.app.redraw()
        await page.pilot.pause()
        assert "slow" in page.line_of("stuck")
        assert "no answer for 12 s; check its load and locks" in page.line_of("stuck")
        assert len(held.kept) == 1
        await page.press("r")
        assert len(held.kept) == 1, "it was asked again"
        held.let_all_go()
        await page.pilot.pause()
        assert " ok " in page.line_of("stuck")


@pytest.mark.slow
async def test_a_slow_database_does_not_hold_the_others_up() -> None:
    stuck, good = FakeMember("stuck", figures()), FakeMember("good", figures(), figures(pending=7))
    waiting: list[Callable[[], object]] = []

    def background(work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if work == stuck.read:
            waiting.append(work)
        else:
            done(work())

    async with shown([stuck, good], background=background, interval=0.01) as page:
        await becomes(lambda: good.reads > 5, "many readings of the good one")
        assert page.line_of("good").split()[3] == "7"
        assert (len(waiting), stuck.reads) == (1, 0)


@pytest.mark.slow
async def test_a_database_without_an_answer_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    at_once = Held()
    async with shown([FakeMember("gone", away())], background=at_once, interval=1.0) as page:
        monkeypatch.setattr(page.app, "later", lambda seconds, _call: delays.append(seconds))
        for _ in range(7):
            page.app.databases.poke("gone")
        assert [round(delay) for delay in delays] == [2, 4, 8, 16, 30, 30, 30]
        assert "Asks again in" in page.text


async def test_the_cursor_starts_on_the_worst_and_then_stays_with_its_database() -> None:
    fleet = [
        FakeMember("a", figures(), figures(Verdict.CRITICAL, wait=40)),
        FakeMember("b", away(), figures()),
        FakeMember("c", figures(Verdict.WARNING)),
    ]
    async with shown(fleet, background=Held()) as page:
        assert page.order == ["b", "c", "a"]
        assert page.app.fleet.current == "b"
        await page.press("j")
        assert page.app.fleet.current == "c"
        await page.press("r")
        assert page.order == ["a", "c", "b"]
        assert page.app.fleet.current == "c"
        await page.press("enter")
    assert page.app.chosen == "c"


@pytest.mark.slow
async def test_enter_opens_the_database_and_q_leaves() -> None:
    async with shown([FakeMember("a", figures()), FakeMember("b", away())], background=Held()) as page:
        await page.press("G", "enter")
    assert (page.app.chosen, page.app.return_code) == ("a", 0)
    for key in ("q", "ctrl+c"):
        async with shown([FakeMember("a", figures())], background=Held()) as page:
            await page.press(key)
        assert (page.app.chosen, page.app.return_code) == (None, 0)


@pytest.mark.slow
async def test_an_unusable_database_says_why_it_is_not_opened_and_one_that_is_away_is_opened() -> None:
    async with shown([FakeMember("bare", UNUSABLE), FakeMember("gone", away())], background=Held()) as page:
        await page.press("j", "enter")
        assert page.toasts == ["It holds no schema. Run `jobdeck init`."]
        assert page.app.is_running
        await page.press("k", "enter")
    assert page.app.chosen == "gone"


async def test_the_details_name_the_address_the_remedy_and_the_last_figures() -> None:
    clock = Clock()
    member = FakeMember("a", figures(pending=10_001, failed=3), away())
    async with shown([member], background=Held(), monotonic=clock, interval=20.0) as page:
        assert "db.example.org/a" in page.text
        assert "✓ Nothing is wrong." in page.text
        clock.now += 90
        await page.press("r")
        assert "The database at db does not answer. Check its address." in page.text
        assert "90s ago: 10,000+ pending, 3 failed, 2 workers, ok" in page.text
        assert page.line_of("a").split()[1:3] == ["away", "90s"]


async def test_what_was_known_before_is_shown_until_it_is_read_again() -> None:
    fleet = [FakeMember("a", figures(pending=5)), FakeMember("b", figures())]
    async with shown(fleet, background=Held()) as page:
        known = page.app.databases.standings
    again = [FakeMember("a", figures(pending=6)), FakeMember("b", figures())]
    async with shown(again, background=Held(holding=True), known=known, at="b", notice="It failed.") as page:
        assert page.line_of("a").split()[3] == "5"
        assert page.app.fleet.current == "b"
        assert page.toasts == ["It failed."]


async def test_every_action_of_the_page_is_done_and_help_and_keys_come_from_the_table() -> None:
    async with shown([FakeMember("a", figures())], background=Held()) as page:
        assert page.lines[-1].split() == ["⏎", "open", "?", "help", "q", "quit", "r", "refresh"]
        for action in offered("fleet"):
            if action.id not in {"quit", "fleet.open"}:
                page.app.fleet.action_do(action.id)
        await page.pilot.pause()
        assert "open the database under the cursor" in page.text
        assert "⊘ cancelled" not in page.text


@pytest.mark.slow
async def test_with_a_mouse_the_keys_are_clicked_and_a_double_click_opens() -> None:
    fleet = [FakeMember("a", figures()), FakeMember("b", figures())]
    async with shown(fleet, background=Held(), mouse=True) as page:
        assert page.lines[-1].split() == ["⏎", "open", "?", "help", "q", "quit", "r", "refresh"]
        await page.pilot.click("#keys", offset=(page.lines[-1].index("refresh"), 0))
        assert [one.reads for one in fleet] == [2, 2]
        await page.pilot.click("#pane", offset=(3, 1), times=2)
        await page.pilot.pause()
    assert page.app.chosen == "b"


async def test_hostile_text_of_a_database_reaches_no_terminal() -> None:
    hostile = "\x1b]52;c;UFdORUQ=\x07 [/bold] jane.doe@example.org"
    fleet = [FakeMember("a", figures(Verdict.WARNING, evidence=hostile)),
             FakeMember("b", Trouble("away", hostile, hostile))]  # fmt: skip
    async with shown(fleet, background=Held(), size=(160, 24)) as page:
        await page.press("j", "k")
        assert "[/bold]" in page.text
        assert all(line.isprintable() for line in page.lines)
        assert "jane.doe" not in page.text


@pytest.mark.slow
async def test_many_databases_scroll_and_long_names_are_cut_in_the_middle() -> None:
    fleet = [FakeMember(f"database-with-a-long-name-{at:02}-of-40", figures()) for at in range(40)]
    async with shown(fleet, background=Held()) as page:
        assert "1-12/40" in page.lines[0]
        await page.press("G")
        assert "39" in page.text
        assert max(map(len, page.lines)) <= 80


@pytest.mark.slow
async def test_a_dashboard_of_the_fleet_returns_to_it_with_q_and_esc() -> None:
    for keys in (("q",), ("escape",), ("h", "q", "q")):
        async with dashboard(failed(2), opened="orders") as deck:
            assert "q fleet" in deck.screen_text()
            await deck.press(*keys)
            assert not deck.app.is_running or deck.app._exit, keys
        assert (deck.app.returns, deck.app.return_code) == (True, 0)


@pytest.mark.slow
async def test_esc_clears_marks_before_it_returns_to_the_fleet() -> None:
    async with dashboard(failed(2), "space", "escape", opened="orders") as deck:
        assert (deck.app.returns, deck.table.marks) == (False, set())
        await deck.press("escape")
    assert (deck.app.returns, deck.app.return_code) == (True, 0)


async def test_ctrl_c_leaves_the_program_from_a_dashboard_of_the_fleet() -> None:
    async with dashboard(failed(2), opened="orders") as deck:
        await deck.press("ctrl+c")
    assert (deck.app.returns, deck.app.return_code) == (False, 0)


@pytest.mark.slow
async def test_running_jobs_are_asked_about_before_it_returns_to_the_fleet() -> None:
    backend = failed(1)
    backend.embedded = EmbeddedWorker("running", 1)
    async with dashboard(backend, "q", opened="orders") as deck:
        assert deck.here == "Leave"
        await deck.press("escape")
        assert not deck.app._exit


async def test_a_dashboard_alone_does_not_leave_with_esc() -> None:
    async with dashboard(failed(1)) as deck:
        assert "q quit" in deck.screen_text()
        await deck.press("escape")
        assert not deck.app._exit


class Visits:
    """The ways through page and dashboards, without a terminal: `opened` says how each dashboard ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *opened: Callable[[JobdeckApp], int]) -> None:
        self.pages: list[FleetApp] = []
        self.names: list[str] = []
        self._opened = list(opened)
        monkeypatch.setattr(run, "run_fleet_page", self._page)
        monkeypatch.setattr(run, "run", self._dashboard)

    def start(self) -> int:
        return run.run_dashboard(Settings(), fleet=lambda: [FakeMember("a", figures()), FakeMember("b", figures())])

    def _page(self, page: FleetApp) -> int:
        self.pages.append(page)
        page.chosen = "b" if len(self.pages) == 1 else None
        return 0

    def _dashboard(self, app: JobdeckApp) -> int:
        self.names.append(app.options.opened)
        return self._opened.pop(0)(app)


def _returns(app: JobdeckApp) -> int:
    app.returns = True
    return 0


def _gives_up(app: JobdeckApp) -> int:
    app.failure, app.gave_up = SchemaMismatch("The schema has gone."), True
    return 1


def test_after_a_dashboard_comes_the_page_with_the_cursor_on_its_database(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits(monkeypatch, _returns)
    assert (visits.start(), visits.names) == (0, ["b"])
    first, second = visits.pages
    assert second.fleet._wanted == "b"
    assert second.databases.members["a"] is not first.databases.members["a"]


def test_a_database_that_cannot_be_used_leads_back_to_the_page_which_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits(monkeypatch, _gives_up)
    assert visits.start() == 0
    assert [page._notice for page in visits.pages] == ["", "The schema has gone."]


@pytest.mark.parametrize("code", [0, 143])
def test_ctrl_c_and_signals_end_the_program_from_a_dashboard(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits(monkeypatch, lambda _app: code)
    assert (visits.start(), len(visits.pages)) == (code, 1)


@pytest.mark.slow
def test_the_page(snap_compare: Callable[..., bool]) -> None:
    fleet = [
        FakeMember("billing", figures(pending=4)),
        FakeMember("orders", figures(Verdict.CRITICAL, pending=10_001, failed=412, wait=40)),
        FakeMember("gone", away()),
        FakeMember("bare", UNUSABLE),
        FakeMember("mail", figures(Verdict.WARNING, pending=90, wait=7, evidence="mail_push fails: 80 % of 412 runs.")),
        FakeMember("night", figures(Verdict.PAUSED, pending=9, evidence="Automatic processing was turned off by bob.")),
    ]
    app = FleetApp(fleet, Options(ticking=False), background=Held(), monotonic=Clock())
    assert snap_compare(app, terminal_size=SMALL, run_before=_down)


async def _down(pilot: Pilot[int]) -> None:
    await pilot.pause()
    await pilot.press("j")
    await pilot.pause()
