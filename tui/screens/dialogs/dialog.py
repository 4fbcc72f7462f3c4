"""The base of dialogs: keys from their table, hints that name the keys, and a cross that a mouse can click."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from rich.cells import cell_len
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from jobdeck.core.errors import UsageError
from jobdeck.tui.deck import deck_of
from jobdeck.tui.dialog_keys import BY_ID, bindings
from jobdeck.tui.format import one_line
from jobdeck.tui.widgets.editor import Editor
from jobdeck.tui.widgets.fields import OneLine, Twin
from jobdeck.tui.widgets.ink import PaintedOnce
from jobdeck.tui.widgets.pane import Pane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.events import Click, DescendantFocus, Resize
    from textual.screen import Screen
    from textual.widget import Widget

    from jobdeck.tui.deck import Deck

T = TypeVar("T")
CROSS: Final = "✕"
APART: Final = " · "
CORNER: Final = 3
"""Cells of a border after its text: a blank, a piece of line and the corner."""


class Hint(Static):
    """Keys of a dialog and what they do, beside its buttons, clickable. `phrases` are texts with their actions.

    What enter does depends on the focus, and is said before the last phrase, which leaves the dialog. Where the
    phrases do not fit, the first are left out.
    """

    def __init__(self, phrases: Sequence[tuple[str, str]]) -> None:
        super().__init__(Content(_joined(phrases)), id="hint")
        self._given = self._phrases = tuple(phrases)
        self._enter = ""

    def say_enter(self, words: str) -> None:
        """Says what enter does now; empty for nothing."""
        if words != self._enter:
            self._enter = words
            self._draw(self.size.width)

    def on_resize(self, event: Resize) -> None:
        self._draw(event.size.width)

    def _draw(self, width: int) -> None:
        *others, last = self._given
        known = [*others, *([(f"enter {self._enter}", "")] if self._enter else []), last]
        fitting = (known[at:] for at in range(len(known)))
        self._phrases = tuple(next((some for some in fitting if cell_len(_joined(some)) <= width), [last]))
        self.update(Content(_joined(self._phrases)), layout=False)

    def action_at(self, x: int) -> str:
        """The action of the phrase at a column of the screen; empty where there is none."""
        end = self.content_region.right
        for words, do in reversed(self._phrases):
            start = end - cell_len(words)
            if start <= x < end:
                return do
            end = start - len(APART)
        return ""


def _joined(phrases: Sequence[tuple[str, str]]) -> str:
    return APART.join(words for words, _ in phrases)


class Dialog(ModalScreen[T], PaintedOnce[T]):
    """A box over another screen. `DIALOG` is its name in the table of dialog keys."""

    DIALOG: ClassVar[str]

    def __init_subclass__(cls, **options: bool) -> None:
        """Binds the keys of the dialog."""
        cls.BINDINGS = [*bindings(cls.DIALOG)]
        super().__init_subclass__(**options)

    send: Callable[[T, Callable[[str], None]], None] | None = None
    """What saves the answer while the dialog is open; it calls its second argument with what went wrong, or ''."""
    _sending = False

    @property
    def deck(self) -> Deck:
        return deck_of(self)

    def answer(self, answer: T) -> None:
        """Closes the dialog with its answer; one that is saved first closes when it is."""
        if self.send is None:
            self.dismiss(answer)
        elif not self._sending:
            self._sending = True
            self.send(answer, partial(self._sent, self.deck))

    def _sent(self, deck: Deck, problem: str) -> None:
        """Closes the dialog whose answer was saved; after an error it stays, with what was typed."""
        self._sending = False
        shown = deck.shows(self)
        if problem and shown:
            self.refuse(problem)
        elif problem:
            deck.say(problem, "error")
        elif shown:
            self.dismiss()

    def refuse(self, problem: str) -> None:
        """Says why the answer cannot be used."""
        self.deck.say(problem, "error")

    def key(self, name: str) -> str:
        """The name of a key of this dialog; configured keys count."""
        return self.deck.key(f"{self.DIALOG}.{name}")

    def or_click(self, key: str) -> str:
        """A key that chooses the line under the cursor; with a mouse, followed by `or double click`."""
        return f"{key} or double click" if self.deck.options.mouse else key

    def hint(self, *pairs: tuple[str, str]) -> Hint:
        """A hint made of pairs: the name of a key and what it does."""
        return Hint([(f"{self.key(name)} {words}", BY_ID[f"{self.DIALOG}.{name}"].do) for name, words in pairs])

    def on_mount(self) -> None:
        """Removes earlier toasts, which would cover the dialog; with a mouse, adds a cross to close it."""
        self.app.clear_notifications()
        if self.deck.options.mouse:
            add_cross(self, self.key("close"))

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Says what enter does where the focus is: some dialogs begin on the button that changes nothing."""
        for hint in self.query(Hint):
            hint.say_enter(self.enter_on(event.widget))

    def enter_on(self, widget: Widget) -> str:
        """What enter does while this widget has the focus, in a word or two; empty where that is not said."""
        if isinstance(widget, Button):
            return str(widget.label)
        return "next" if isinstance(widget, Input) else ""

    async def on_click(self, event: Click) -> None:
        """Closes on a click beside the box or on the cross; runs the action of a clicked hint."""
        clicked, _ = self.get_widget_at(event.screen_x, event.screen_y)
        if isinstance(clicked, Hint):
            do = clicked.action_at(event.screen_x)
        else:
            do = BY_ID[f"{self.DIALOG}.close"].do if leaves(self, event) else ""
        if do:
            await self.run_action(do)


class FieldsDialog(Dialog[T | None]):
    """A dialog of text fields. Enter moves to the next field, and from the last one to the button `yes`.

    `FIELDS` are the ids of the fields in their order. The button closes the dialog if the answer can be read.
    """

    AUTO_FOCUS: ClassVar[str] = ""  # It would scroll to the field itself, past its label and what is said above it.
    DIALOG: ClassVar[str] = ""
    FIELDS: ClassVar[tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the fields in their order."""
        return self.FIELDS

    def read(self) -> T:
        """The answer of the fields.

        Raises:
            UsageError: a field cannot be used.
        """
        raise NotImplementedError

    def twin(self, answer: T) -> str:
        """The equivalent command."""
        raise NotImplementedError

    def explain(self, answer: T | None) -> None:
        """Shows what else follows from the fields; None while they cannot be used."""

    def draw(self) -> None:
        """Shows the equivalent command, none while a field cannot be used, and what else follows from the fields."""
        answer: T | None = None
        with suppress(UsageError):
            answer = self.read()
        self.query_one(Twin).show("" if answer is None else self.twin(answer))
        self.explain(answer)

    def field(self, label: str, name: str, value: str = "", *, example: str = "") -> ComposeResult:
        """A field with its label above it."""
        yield Static(Content(label), classes="label")
        yield OneLine(value, example=example, id=name)

    def text(self, name: str) -> str:
        """What is typed in a field, without blanks around it."""
        return self.query_one(f"#{name}", Input).value.strip()

    def ending(self, yes: str, *, no: str = "Cancel", danger: bool = False) -> ComposeResult:
        """What is below the fields: the problem, the command, the buttons and the keys."""
        yield Static(id="problem")
        yield Twin()
        with Horizontal(id="buttons"):
            yield Button(Content(no), id="cancel")
            yield Button(Content(yes), id="yes", classes="-danger" if danger else "")
            yield Hint([(f"{self.key('close')} cancels", "dismiss")])

    def refuse(self, problem: str) -> None:
        """Shows why the fields cannot be used, and scrolls there in a dialog that is longer than the screen."""
        shown = self.query_one("#problem", Static)
        shown.update(Content.styled(problem, "$error"))
        shown.scroll_visible(animate=False)

    def on_mount(self) -> None:
        self.query_one(f"#{self.names[0]}", Input).focus(scroll_visible=False)
        self.draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        place = self.names.index(str(event.input.id)) + 1
        if place < len(self.names):
            self.query_one(f"#{self.names[place]}", Input).focus()
            if place == len(self.names) - 1:  # The command and the buttons follow.
                self.call_after_refresh(self.query_one("#box").scroll_end, animate=False)
        elif self._answer() is not None:
            self.query_one("#yes", Button).focus()

    def on_input_changed(self) -> None:
        self.query_one("#problem", Static).update(Content(""))
        self.draw()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id != "yes":
            self.dismiss(None)
        else:
            self.action_save()

    def action_save(self) -> None:
        """Closes the dialog with its answer, if it can be read."""
        answer = self._answer()
        if answer is not None:
            self.answer(answer)

    def _answer(self) -> T | None:
        """The answer; None if it cannot be read, which is shown."""
        try:
            return self.read()
        except UsageError as error:
            self.refuse(str(error))
            return None


class ListDialog(Dialog[T]):
    """A dialog with one list, whose lines are made again for each width."""

    DIALOG: ClassVar[str] = ""

    @property
    def pane(self) -> Pane:
        return self.query_one(Pane)

    def redraw(self) -> None:
        """Lists the lines."""
        raise NotImplementedError

    def on_resize(self, _event: Resize) -> None:
        self.call_after_refresh(self.redraw)

    def action_move(self, by: int) -> None:
        self.pane.move(by)


class EditorDialog(Dialog[T | None]):
    """A dialog with an editor of several lines. Its button `yes` submits the text, and `no` closes it."""

    DIALOG: ClassVar[str] = ""

    _opened_with = ""
    _discarding = False

    def editor(self, text: str, name: str) -> Editor:
        area = Editor(text, id=name, compact=True)
        area.cursor_blink = False
        return area

    @property
    def typed(self) -> str:
        """The text of the editor."""
        return self.query_one(Editor).text

    def action_submit(self) -> None:
        """Closes the dialog with what was typed, if it can be used."""
        raise NotImplementedError

    def action_leave(self) -> None:
        """Closes the dialog; if the text was changed, only at the second key press."""
        if self.typed == self._opened_with or self._discarding:
            self.dismiss(None)
            return
        self._discarding = True
        self.say(f"Press {self.key('close')} again to discard what you typed.")

    def on_text_area_changed(self) -> None:
        """What was typed since is not what the person wanted to discard."""
        self._discarding = False

    def say(self, problem: str) -> None:
        """Shows what is wrong; an empty text clears it."""
        self.query_one("#problem", Static).update(Content.styled(one_line(problem), "$error"))

    def refuse(self, problem: str) -> None:
        self.say(problem)

    def on_mount(self) -> None:
        self._opened_with = self.typed
        self.query_one(Editor).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "yes":
            self.action_submit()
        elif event.button.id == "no":
            self.action_leave()


def answer_with(here: Screen[Any], dialog: ModalScreen[T | None], then: Callable[[T], object]) -> None:
    """Opens a dialog over a screen, and calls `then` with its answer if it gives one."""

    def answered(answer: T | None) -> None:
        if answer is not None:
            then(answer)

    here.app.push_screen(dialog, answered)


def send_with(here: Screen[Any], dialog: Dialog[T | None], send: Callable[[T, Callable[[str], None]], None]) -> None:
    """Opens a dialog over a screen. `send` saves its answer, and the dialog stays open until that has succeeded."""

    def sending(answer: T | None, ended: Callable[[str], None]) -> None:
        if answer is not None:
            send(answer, ended)

    dialog.send = sending
    here.app.push_screen(dialog)


def add_cross(screen: Screen[T], key: str) -> None:
    """Adds the cross that closes a screen to the border of its box."""
    box = screen.query_one("#box")
    said = str(box.border_subtitle or "")
    last = f"{key} {CROSS}"
    if said.rpartition(APART)[2].startswith(f"{key} "):
        last = f"{said} {CROSS}"
    elif said:
        last = f"{said}{APART}{last}"
    box.border_subtitle = Content(last)


def leaves(screen: Screen[T], event: Click) -> bool:
    """Whether a click closes a screen: it is beside the box, or on the last words in its border.

    The second click of a double click does not count: the first may have opened the screen.
    """
    if event.chain > 1:
        return False
    clicked, _ = screen.get_widget_at(event.screen_x, event.screen_y)
    if clicked is screen:
        return True
    box = screen.query_one("#box")
    last = str(box.border_subtitle).rpartition(APART.strip())[2].strip()
    end = box.region.right - CORNER
    in_border = clicked is box and event.screen_y == box.region.bottom - 1
    return in_border and bool(last) and end - cell_len(last) <= event.screen_x < end
