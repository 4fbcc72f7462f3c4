"""The base of all pages but the list: they read while they are on top, and report when they cannot."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from rich.cells import cell_len
from textual.containers import Container

from jobdeck.core.errors import JobdeckError
from jobdeck.tui.actions import offered
from jobdeck.tui.backend.poller import LinkState
from jobdeck.tui.format import one_line, plural, seconds
from jobdeck.tui.screens.acting import Acting
from jobdeck.tui.screens.below import Below, Subject
from jobdeck.tui.screens.nouns import open_noun
from jobdeck.tui.shape import WIDE
from jobdeck.tui.widgets import key_line, status_bar
from jobdeck.tui.widgets.ink import Line, Reason, width_of
from jobdeck.tui.widgets.pane import MOVES, Entry, Pane, entry
from jobdeck.tui.widgets.pause_banner import is_paused

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from textual.app import ComposeResult
    from textual.events import Resize

    from jobdeck.core.model import Job
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Lines, Sheet

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Page(Acting, Generic[T]):
    """A page that reads its own data in the background, one reading at a time.

    The poller calls `fetch` whenever it reads, so that both wait for the same round trip, or at its first answer after
    a lost connection. The page reads when its data is `EVERY` seconds old, or when an action has finished since it
    last read.
    """

    EVERY: ClassVar[float] = 0.0
    QUERY: ClassVar[Callable[..., Any]]
    """What the page shows; a page that reads something else has a `read` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.data: T | None = None
        self.trouble = ""
        self._asking = False
        self._covered = False
        self._read_at: float | None = None
        self._read_after = 0
        self._asked_at = 0.0
        self._data_at: float | None = None

    def read(self, backend: Backend) -> T:
        """Reads the data of the page; called in a background thread."""
        found: T = backend.read(self.QUERY, **self.given())
        return found

    def given(self) -> dict[str, Any]:
        """The arguments of the query."""
        return {}

    def compose(self) -> ComposeResult:
        yield Line(id="title")
        yield Line(id="banner")
        yield Reason()
        yield from self.middle()
        yield Line(id="keys")

    def middle(self) -> ComposeResult:
        """The widgets between the banner and the keys."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draws everything from the current data; only what differs is repainted."""
        raise NotImplementedError

    @property
    def pane(self) -> Pane | Sheet:
        """The lines that the movement keys apply to."""
        raise NotImplementedError

    def targets(self) -> tuple[Job, ...]:
        """None; only the page of a job acts on jobs."""
        return ()

    def handlers(self) -> dict[str, Callable[[], object]]:
        """On a page, `esc` and `q` leave it and `r` reads again; actions of other scopes are dropped."""
        everywhere = super().handlers() | {
            "refresh": self.reread,
            "back": self.dismiss,
            "quit": self.dismiss,
            **{name: partial(self._scroll, step) for name, step in MOVES.items()},
        }
        here = {action.id for action in offered(self.SCOPE)}
        return {name: do for name, do in everywhere.items() if name in here}

    def _scroll(self, step: Callable[[Lines[Any]], None]) -> None:
        step(self.pane)
        self.draw_title()

    def on_mount(self) -> None:
        """Draws what is known, then reads the rest."""
        self.pane.focus()
        self.redraw()
        self.fetch()

    def on_screen_suspend(self) -> None:
        self._covered = True

    def on_screen_resume(self) -> None:
        """Reads again, because a page under a dialog or another page does not read."""
        if self._covered:
            self._covered, self._read_at = False, None
            self.fetch()

    def fetch(self) -> None:
        """Reads, unless the data is recent or a reading is under way."""
        deck = self.deck
        acted = deck.operations.answered
        late = self._read_at is None or deck.monotonic() - self._read_at >= self.EVERY
        if (late or acted != self._read_after) and not self._asking and deck.view is not None:
            self._asking, self._read_after, self._asked_at = True, acted, deck.monotonic()
            deck.background(lambda: self.read(deck.reach()), self._answered)

    def reread(self) -> None:
        """Reads as soon as the poller has an answer; when disconnected, tries to connect."""
        self._read_at = None
        self.deck.poller.poke()

    def tick(self) -> None:
        """Redraws what counts seconds: a lost connection, a late answer."""
        if not self.deck.poller.connected:
            self.draw_banner()
        self.draw_title()

    def on_resize(self, _event: Resize) -> None:
        self.call_after_refresh(self.redraw)

    def on_lines_resized(self) -> None:
        """Updates the visible lines in the heading."""
        self.draw_title()

    def draw_title(self) -> None:
        """Draws the heading."""
        raise NotImplementedError

    def lateness(self) -> list[Span]:
        """The age of late data, or the time that the first answer has taken so far; empty where neither is unusual."""
        now, pace = self.deck.monotonic(), self.deck.poller.pace
        if self._data_at is None:
            waited = now - self._asked_at if self._asking else 0.0
            return [(f"waiting {seconds(waited)} ", "muted")] if waited >= status_bar.LATE else []
        old = now - self._data_at
        return [(f"{seconds(old)} old ", "warn")] if old >= max(self.EVERY, pace) + pace + status_bar.LATE else []

    def place(self) -> list[Span]:
        """The age of late data, and the visible lines."""
        return [*self.lateness(), *([(f"{self.pane.place} ", "muted")] if self.pane.place else [])]

    def draw_banner(self) -> None:
        """Shows a lost connection, the page's own trouble, or a pause, in this order. A long text is wrapped."""
        deck = self.deck
        own: list[Span] = [(f" {self.trouble}", "alert")] if self.trouble else []
        banner = self.query_one("#banner", Line)
        link = deck.poller.link
        shown = status_bar.banner(deck.view, link, deck.monotonic(), deck.now(), width=self.size.width, key=deck.key)
        why = ""
        if link.state is LinkState.DISCONNECTED:
            why = one_line(link.error)
        elif own and cell_len(self.trouble) + 1 > banner.container_size.width:
            why, shown = self.trouble, []
        elif own:
            shown = own
        self.query_one(Reason).say(why)
        banner.display = bool(shown)
        banner.show(shown)

    def draw_keys(self) -> None:
        view = self.deck.view
        paused = view is not None and is_paused(view.snapshot.processing)
        line = self.query_one("#keys", Line)
        line.show(key_line.keys(self.SCOPE, self.situation(), line.size.width or self.size.width, paused=paused))

    def arrived(self, data: T) -> None:
        """Takes the data that was read."""
        self.data = data

    def _answered(self, answer: T | Exception) -> None:
        self._asking = False
        if not self.is_attached:
            return
        if isinstance(answer, JobdeckError):
            self.trouble = one_line(str(answer))
        elif isinstance(answer, Exception):
            logger.error("Could not read a page", exc_info=answer)
            self.trouble = f"Could not read this page: {type(answer).__name__}. See the log file for details."
        else:
            self.trouble = ""
            self._read_at, self._data_at = self.deck.monotonic(), self._asked_at
            self.arrived(answer)
        self.redraw()


class ListPage(Page[T]):
    """A page with a heading, a pane of lines and the keys.

    The cursor begins on the line with the key `wanted`. Without such a line, a message says so.
    """

    HEADING: ClassVar[str] = ""

    def __init__(self, wanted: Hashable | None = None) -> None:
        super().__init__()
        self.wanted = wanted
        self._below = Below(self)

    @property
    def heading(self) -> str:
        return self.HEADING

    def middle(self) -> ComposeResult:
        yield self.make_pane()

    def make_pane(self) -> Pane:
        """Makes the pane; subclasses may change its behaviour."""
        return Pane(id="pane")

    def entries(self, data: T, width: int) -> Sequence[Entry]:
        raise NotImplementedError

    def summary(self, data: T) -> list[Span]:
        """The text beside the heading."""
        del data
        return []

    @property
    def subject_below(self) -> Subject | None:
        """What the line under the cursor is about, if its jobs and runs follow the list where that leaves room."""
        return None

    def draw_below(self) -> None:
        """Draws what follows the list."""
        self._below.follow(self.list_pane, self.subject_below if self.data is not None else None, self._data_at)

    @property
    def pane(self) -> Pane:
        return self.list_pane

    @property
    def list_pane(self) -> Pane:
        return self.query_one("#pane", Pane)

    def on_pane_moved(self) -> None:
        self.draw_title()
        self.draw_keys()
        self.draw_below()

    def on_pane_chosen(self) -> None:
        if "open" in self._handlers:
            self.action_do("open")

    def open_chosen(self) -> None:
        """Opens what the line under the cursor is about, if `OPENS` has it."""
        key = self.pane.current
        open_noun(self.deck, self.list_pane.current if key is None else key)

    def redraw(self) -> None:
        if not self.is_there:
            return
        self.draw_banner()
        width = self.pane.size.width
        if self.data is None:
            self.pane.show([Entry(((" Reading…", "muted"),))])
        elif width:
            self.pane.show(self.entries(self.data, width))
            self.seek_wanted()
        self.draw_title()
        self.draw_keys()
        self.draw_below()

    def seek_wanted(self) -> None:
        """Puts the cursor on the line that the page was opened for, once it was read."""
        if self.wanted is None or self.data is None:
            return
        key, self.wanted = self.wanted, None
        if any(one.key == key for one in self.list_pane.entries):
            self.list_pane.seek(key)
        else:
            kind, name = key if isinstance(key, tuple) else ("line", key)
            self.deck.say(f"The {kind} {one_line(str(name))} is no longer listed.")

    def draw_title(self) -> None:
        right = [*self.place(), *status_bar.environment(self.deck.options)]
        beside = self.summary(self.data) if self.data is not None else []
        left = [(f" {self.heading}", "strong"), ("  ", "text"), *beside]
        room = self.size.width - width_of(right) - 1
        if left[-1][0].startswith("  jobdeck ") and width_of(left) > room:
            del left[-1]  # Half a command helps nobody.
        self.query_one("#title", Line).show(left, right)


class SplitPage(ListPage[T]):
    """A heading of columns, a line for each subject, a rule with the subject's name, and its details.

    The lines keep their order, so the cursor stays where it is when the figures change. The details are below them, or
    from `BESIDE` columns on at their right.
    """

    BESIDE: ClassVar[int] = WIDE

    # Textual calls these handlers of the base classes too, after those of this one.
    def on_mount(self) -> None:
        self.set_class(self.app.size.width >= self.BESIDE, "-wide")

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width >= self.BESIDE, "-wide")

    def on_pane_moved(self) -> None:
        self.draw_about()

    def middle(self) -> ComposeResult:
        yield Line(id="columns")
        with Container(id="parts"):
            yield self.make_pane()
            yield Line(id="rule")
            yield Pane(id="about", cursor=False, links=True)

    def columns(self, width: int) -> Sequence[Span]:
        """The heading of the lines."""
        raise NotImplementedError

    def about(self, data: T, width: int) -> tuple[list[Span], Sequence[Entry]]:
        """The words in the rule, and the details of the current line; empty where there is none."""
        raise NotImplementedError

    @property
    def pane(self) -> Pane:
        """The pane with the focus, otherwise the lines."""
        return self.focused if isinstance(self.focused, Pane) else self.list_pane

    @property
    def key_of_detail(self) -> Any:
        """The key of the current line of the details; None unless the cursor is there."""
        return self.query_one("#about", Pane).current if self.is_there else None

    @property
    def key_of_line(self) -> Any:
        """The key of the current line; None where there is none."""
        return self.list_pane.current if self.is_there else None

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"pane.next": self._other_pane}

    def redraw(self) -> None:
        if not self.is_there:
            return
        self.draw_banner()
        width = self.list_pane.size.width
        self.query_one("#columns", Line).show(self.columns(width))
        if width:
            reading = [entry((" Reading…", "muted"))]
            self.list_pane.show(reading if self.data is None else self.entries(self.data, width))
            self.seek_wanted()
        self.draw_title()
        self.draw_keys()
        self.draw_below()
        self.draw_about()

    def doing(self) -> str:
        """What is under way, at the right end of the rule; empty where nothing is."""
        return ""

    def draw_about(self) -> None:
        """Draws the rule and the details."""
        pane = self.query_one("#about", Pane)
        if self.data is None or not pane.size.width:
            pane.show([])
            return
        words, details = self.about(self.data, pane.size.width)
        hidden = len(details) - pane.lines
        more = f"{plural(hidden, 'more line')} below: {self.deck.key('pane.next')}" if hidden > 0 else ""
        doing: list[Span] = [(self.doing(), "run")] if self.doing() else [(more, "muted")] if more else []
        length, rule = width_of([*words, *doing]) + len(doing), self.query_one("#rule", Line)
        rule.show([*words, ("─" * max((rule.size.width or self.size.width) - length, 0), "muted")], doing)
        pane.show(details)

    def _other_pane(self) -> None:
        other = self.query_one("#about", Pane) if self.pane is self.list_pane else self.list_pane
        other.focus()
