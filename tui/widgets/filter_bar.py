"""The filter line: completion by tab, ids from names, earlier filters by up and down."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual.containers import Horizontal
from textual.message import Message

from jobdeck.core.errors import JobdeckError, UsageError
from jobdeck.core.read.filters import completions, parse_filter
from jobdeck.core.read.operators.preferences import SIGN
from jobdeck.tui.dialog_keys import BY_ID as DIALOG_KEYS
from jobdeck.tui.dialog_keys import bindings
from jobdeck.tui.format import one_line
from jobdeck.tui.widgets.fields import OneLine
from jobdeck.tui.widgets.ink import Line
from jobdeck.tui.widgets.key_line import phrase_at
from jobdeck.tui.widgets.name_finder import NameFinder, naming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.widgets import Input

    from jobdeck.core.model import Filter
    from jobdeck.tui.deck import Deck
    from jobdeck.tui.widgets.ink import Span

EXAMPLE = 'words, type:sync status:failed error:"rate limit" age>2h'


class FilterInput(OneLine):
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("filter")]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__("", example=EXAMPLE, id=id)
        self.select_on_focus = self.can_focus = False
        self.history: list[str] = []
        self.words: Callable[[], Sequence[str]] = tuple
        self.names: Callable[[], Sequence[str]] = tuple
        self.save: Callable[[], object] = tuple
        self._at = 0
        self._offered: list[str] = []
        self._taken = -1

    def begin(self, text: str) -> None:
        """Starts editing a filter."""
        self.value = text
        self._at = len(self.history)
        self.cursor_position = len(text)

    def keep(self, text: str) -> None:
        """Adds a filter to the history of this session."""
        if text:
            self.history = [*(one for one in self.history if one != text), text]

    def action_complete(self) -> None:
        """Completes the last word; called again, with the next candidate."""
        if self._taken < 0 or self.value.split(" ")[-1] != self._offered[self._taken]:
            self._offered = [*self.names()] or completions(self.value, self.words())
            self._taken = -1
        if not self._offered:
            return
        self._taken = (self._taken + 1) % len(self._offered)
        named = naming(self.value)
        if named is not None and not named.after:
            before = named.before
        else:
            before = self.value[: len(self.value) - len(self.value.split(" ")[-1])]
        self.value = f"{before}{self._offered[self._taken]}"
        self.cursor_position = len(self.value)

    def action_save(self) -> None:
        """Saves the filter under a name."""
        self.save()

    def action_recall(self, by: int) -> None:
        """Recalls an earlier or later filter of this session."""
        self._at = min(max(self._at + by, 0), len(self.history))
        self.value = self.history[self._at] if self._at < len(self.history) else ""
        self.cursor_position = len(self.value)


class FilterBar(Horizontal):
    """The current filter, or the input that edits it."""

    class Wanted(Message):
        """A filter was typed."""

        def __init__(self, text: str, found: Filter) -> None:
            super().__init__()
            self.text = text
            self.found = found

    class Refused(Message):
        """The typed text is not a valid filter."""

        def __init__(self, sentence: str) -> None:
            super().__init__()
            self.sentence = sentence

    class Saving(Message):
        """The typed filter is to be saved under a name."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Typing(Message):
        """The text has changed; `hint` shows the candidates."""

    def __init__(self, deck: Deck, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.key = deck.key
        self._preferences = deck.options.preferences
        self._finder = NameFinder(deck, self._found)
        self._applying = False

    def compose(self) -> ComposeResult:
        yield Line(id="filter-line")
        yield FilterInput(id="filter-input")

    @property
    def field(self) -> FilterInput:
        return self.query_one(FilterInput)

    @property
    def editing(self) -> bool:
        """Whether a filter is being typed."""
        return bool(self.field.display)

    def edit(self, text: str, words: Callable[[], Sequence[str]]) -> None:
        """Starts editing; `words` returns the task types that complete a word."""
        self._finder.begin()
        self._applying = False
        self.field.words, self.field.names, self.field.save = words, self._names, self._save
        self.field.display = self.field.can_focus = True
        self.field.begin(text)
        self.field.focus()
        self.draw(text)

    def close(self) -> None:
        self._applying = False
        self.field.display = self.field.can_focus = False

    def draw(self, text: str, *, leads_back: bool = False) -> None:
        """Shows the filter and whether `esc` clears it or leads back to a page, or makes room for the input."""
        self.display = self.editing or bool(text)
        line = self.query_one("#filter-line", Line)
        slash = f" {self.key('filter')} "
        if line.has_class("-editing") is not self.editing:
            line.set_class(self.editing, "-editing")
            line.styles.width = cell_len(slash) if self.editing else "1fr"
        shown: list[Span] = [(slash, "key")]
        if not self.editing:
            named = naming(text)
            name = self._finder.name(named.words) if named is not None else ""
            shown += [(one_line(text), "strong"), (f"  {name}", "muted")]
        does = "goes back" if leads_back else "clears"
        line.show(shown, () if self.editing else ((f"{self.key('back')} {does} ", "muted"),))

    def hint(self) -> list[Span]:
        """The candidates for the last word, or why the filter cannot be read."""
        text = self.field.value
        if text.startswith(SIGN):
            return self._saved_hint(text)
        named = naming(text)
        names = self._finder.hint(named, self.key("filter.complete")) if named is not None and not named.after else []
        if names:
            return names
        offered = completions(text, self.field.words())
        if offered:
            first, *others = offered
            more = "  ".join(others[:6])
            return [(f" {self.key('filter.complete')} ", "key"), (first, "strong"), (f"  {more}", "muted")]
        try:
            parse_filter(text)
        except UsageError as error:
            return [(f" {error}", "warn")]
        keys = f" enter applies, {self.key('back')} leaves, {self.key('filter.earlier')} recalls, "
        keys += f"{self.key('filter.save')} saves; "
        return [(keys, "muted"), ('"…" finds the text', "muted")]

    def _names(self) -> Sequence[str]:
        """The filter words for the ids found for the name being typed, or the saved filters that it begins."""
        if self.field.value.startswith(SIGN):
            with suppress(JobdeckError):
                return self._saved(self.field.value)
            return ()
        named = naming(self.field.value)
        known = None if named is None or named.after else self._finder.known(named)
        return [f"{named.key}:{one.id}" for one in known] if named is not None and known else ()

    def _saved(self, text: str) -> list[str]:
        """The saved filters whose names begin with the typed one, each with its sign."""
        wanted = text.strip().lower()
        return [name for one in self._preferences.filters() if (name := f"{SIGN}{one}").startswith(wanted)]

    def _saved_hint(self, text: str) -> list[Span]:
        """The saved filters that begin so, or the words of the one that is typed whole."""
        try:
            found = self._saved(text)
            if text.strip().lower() in found:
                return [(f" {one_line(self._preferences.words(text))}", "strong")]
        except JobdeckError as error:
            return [(f" {one_line(str(error))}", "warn")]
        if not found:
            return [(f" No saved filter begins so. {self.key('filter.save')} saves the filter that is typed.", "warn")]
        first, *others = found
        return [(f" {self.key('filter.complete')} ", "key"), (first, "strong"), (f"  {'  '.join(others[:6])}", "muted")]

    def _save(self) -> None:
        """Asks to save what is typed, if it is a filter."""
        text = self.field.value.strip()
        try:
            words = self._preferences.words(text)
            parse_filter(words)
        except JobdeckError as error:
            self.post_message(self.Refused(str(error)))
            return
        if words:
            self.post_message(self.Saving(words))
        else:
            self.post_message(self.Refused("Type a filter first, then save it."))

    def ways(self) -> list[Span]:
        """The clickable keys, for a mouse, beside a hint that does not name them."""
        applies, leaves = "enter applies", f"{self.key('back')} leaves"
        named = any(leaves in text for text, _ in self.hint())
        return [] if named else [(f"{applies}, {leaves} ", "muted")]

    async def take_click(self, spans: Sequence[Span], x: int) -> None:
        """Does the action of the key at a cell of the hint."""
        earlier = DIALOG_KEYS["filter.earlier"]
        phrases = (
            ("enter applies", "submit"),
            (f"{self.key(earlier.id)} recalls", earlier.do),
            (f" {self.key('filter.complete')} ", DIALOG_KEYS["filter.complete"].do),
        )
        do = phrase_at(spans, x, phrases)
        if do is not None:
            await self.field.run_action(do)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        named = naming(event.value)
        if named is not None and not named.after:
            self._finder.look(named)
        self._applying = False
        self.post_message(self.Typing())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Applies the filter; an invalid one changes nothing."""
        event.stop()
        self._apply(event.value.strip())

    def _apply(self, text: str) -> None:
        """Filters the list; a name that is still being looked up is applied when its answer has come."""
        try:
            text = self._preferences.words(text)
        except JobdeckError as error:
            self.post_message(self.Refused(str(error)))
            return
        named = naming(text)
        if named is not None and named.words and not named.by_id:
            known = self._finder.known(named)
            if known is None:
                self._applying = True
                self._finder.look(named)
                return
            refusal = self._finder.refusal(named, self.key("filter.complete"))
            if refusal:
                self.post_message(self.Refused(refusal))
                return
            text = named.taken(known[0].id) if known else text
        try:
            found = parse_filter(text)
        except UsageError as error:
            self.post_message(self.Refused(str(error)))
            return
        self.field.keep(text)
        self.post_message(self.Wanted(text, found))

    def _found(self) -> None:
        if self._applying:
            self._applying = False
            self._apply(self.field.value.strip())
        self.post_message(self.Typing())
