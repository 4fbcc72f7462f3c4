"""A page of a plugin: the rows of its query, its search, and its actions. Every text of the plugin is cleaned here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from jobdeck.core.errors import UsageError
from jobdeck.core.plugins import Found, PageAction
from jobdeck.core.redact import clean
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.form.lookup import Offer, among, asking
from jobdeck.tui.format import fit, one_line, plural, wrapped
from jobdeck.tui.screens.dialogs.choosing import Picker
from jobdeck.tui.screens.dialogs.confirm import Confirm, Question
from jobdeck.tui.screens.dialogs.dialog import FieldsDialog, answer_with
from jobdeck.tui.screens.page import SplitPage
from jobdeck.tui.widgets.pane import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from textual.app import ComposeResult

    from jobdeck.core.plugins import Page
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span

GAP = 2


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a page that was narrowed down to `wanted`; empty for all."""

    wanted: str
    rows: tuple[tuple[str, ...], ...]


class TablePage(SplitPage[Table]):
    """The rows of a plugin's query, read again every few seconds; below them, what can be done with the current one."""

    SCOPE: ClassVar[Scope] = "table"
    EVERY: ClassVar[float] = 5.0

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.found = Found("", "")

    @property
    def heading(self) -> str:
        return one_line(self.page.title)

    def read(self, backend: Backend) -> Table:
        wanted = self.found.id
        return Table(wanted, tuple(map(tuple, backend.table(self.page, wanted))))

    def arrived(self, data: Table) -> None:
        """Takes the rows, unless the search has changed while they were read: then it reads again."""
        if data.wanted == self.found.id:
            super().arrived(data)
        else:
            self.reread()

    def columns(self, width: int) -> Sequence[Span]:
        rows = self.data.rows if self.data is not None else ()
        return [(heading(self.page.columns, rows, width), "head")]

    def entries(self, data: Table, width: int) -> Sequence[Entry]:
        if data.rows:
            return lines(self.page.columns, data.rows, width)
        search = self.page.search
        offered = search is not None and not data.wanted
        hint = f" {self.deck.key('table.search')} searches: {one_line(search.hint)}." if search and offered else ""
        return [entry((f" {part}", "muted")) for part in wrapped(f"No rows.{hint}", max(width - 1, 20))]

    def about(self, data: Table, width: int) -> tuple[list[Span], Sequence[Entry]]:
        """What each action would do with the current row, as its dialog says it."""
        del data
        row = self._row
        if row is None:
            return [], []
        told: list[Entry] = []
        for name in self._possible:
            action = self.page.actions[name]
            if isinstance(action, PageAction) and action.on_row:
                said = wrapped(one_line(action.about(row)), max(width - 4, 20))
                told += [entry((f" {one_line(name)}", "run")), *(entry((f"   {part}", "text")) for part in said)]
        return [(" actions ", "tab")] if told else [], told

    def summary(self, data: Table) -> list[Span]:
        found: list[Span] = [("  ", "text"), (one_line(self.found.label), "strong")] if self.found.id else []
        return [(f"{plural(len(data.rows), 'row')}", "muted"), *found]

    def refused(self) -> dict[str, str]:
        """Refuses an action where the page has none or a row is missing, and a search where the page has none."""
        refused = {}
        if not self.page.actions:
            refused["table.act"] = "This page is read-only."
        elif not self._possible:
            refused["table.act"] = "There is no row under the cursor."
        if self.page.search is None:
            refused["table.search"] = "This page has no search."
        return refused

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"table.act": self._choose, "table.search": self._search}

    def on_pane_chosen(self) -> None:
        self.action_do("table.act")

    @property
    def _row(self) -> tuple[str, ...] | None:
        key = self.key_of_line
        rows = self.data.rows if self.data is not None else ()
        return next((row for row in rows if ("row", row) == key), None)

    @property
    def _possible(self) -> list[str]:
        """The actions that are possible for the line under the cursor."""
        row = self._row
        return [name for name, action in self.page.actions.items()
                if row is not None or (isinstance(action, PageAction) and not action.on_row)]  # fmt: skip

    def _search(self) -> None:
        search = self.page.search
        if search is None:
            return
        fetch = asking(self.deck.background, lambda text: self.deck.reach().search_table(self.page, text))
        offer = Offer(self.heading, fetch, empty=one_line(search.empty), chosen=self.found.id,
                      example=one_line(search.hint))  # fmt: skip

        def chosen(found: Found) -> None:
            self.found, self.data = found, None
            self.redraw()
            self.reread()
            self.fetch()

        answer_with(self, Picker(offer), chosen)

    def _choose(self) -> None:
        row = self._row
        title = f"{self.heading}: {one_line('  '.join(row[: len(self.page.columns)]))}" if row else self.heading
        offer = Offer(title, among([Found(name, name) for name in self._possible]))
        answer_with(self, Picker(offer), lambda action: self._ask(action.id, row or ()))

    def _ask(self, name: str, row: Sequence[str]) -> None:
        action = self.page.actions[name]
        if not isinstance(action, PageAction):
            self._act(name, row, {})
            return
        row = row if action.on_row else ()
        answer_with(self, AskForTexts(name, action, row), partial(self._act, name, row))

    def _act(self, action: str, row: Sequence[str], answers: Mapping[str, str]) -> None:
        done = self.page.actions[action]

        def answered(answer: str | Exception) -> None:
            if isinstance(answer, Exception):
                self.deck.say(failure(action, answer), "error")
            elif isinstance(done, PageAction) and done.reveals:
                title = f"{self.heading}: {one_line(action)}"
                self.app.push_screen(Confirm(Question(title, Content(clean(answer)), "", "Close")))
            else:
                self.deck.say(one_line(answer))
            self.reread()

        self.deck.background(lambda: self.deck.reach().act_on_row(self.page, action, row, answers), answered)


class AskForTexts(FieldsDialog[dict[str, str]]):
    """Returns the texts by their names, or None. None of them may be empty."""

    DIALOG: ClassVar[str] = "row"

    def __init__(self, title: str, action: PageAction, row: Sequence[str]) -> None:
        super().__init__()
        self.heading = one_line(title[:1].upper() + title[1:])
        self.action = action
        self.row = row

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"ask-{place}" for place in range(len(self.action.asks)))

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content(self.heading)
            yield Static(Content(one_line(self.action.about(self.row))))
            for name, asked in zip(self.names, self.action.asks, strict=True):
                yield from self.field(one_line(asked.label), name, example=one_line(asked.example))
            yield from self.ending(self.heading)

    def twin(self, answer: dict[str, str]) -> str:
        """The equivalent command, with the texts as they were typed."""
        return clean(self.action.command(self.row, answer))

    def read(self) -> dict[str, str]:
        answers = {}
        for name, asked in zip(self.names, self.action.asks, strict=True):
            answers[asked.name] = self.text(name)
            if not answers[asked.name]:
                raise UsageError(f"{one_line(asked.label)} is missing.")
        return answers


def heading(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """The names of the columns above `lines`."""
    return f" {_line(columns, _widths([list(columns), *_texts(columns, rows)], width - 1))}"


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Entry]:
    """A line for each row, whose key is the row. Cells beyond the columns are not shown."""
    texts = _texts(columns, rows)
    widths = _widths([list(columns), *texts], width - 1)
    return [
        entry((f" {_line(text, widths)}", "text"), key=("row", tuple(row)))
        for row, text in zip(rows, texts, strict=True)
    ]


def _texts(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[one_line(str(cell)) for cell in row[: len(columns)]] for row in rows]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(fit(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """The width of each column's longest text; the widest columns shrink until all fit in `room` cells."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    while widths and max(widths) > 1 and sum(widths) + GAP * (len(widths) - 1) > room:
        widths[widths.index(max(widths))] -= 1
    return widths
