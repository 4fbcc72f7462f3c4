"""Quick Sync: the presets of the plugins, one key each, and the result of the last one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from textual.binding import BindingsMap
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from jobdeck.tui.backend.threads import failure
from jobdeck.tui.dialog_keys import preset_bindings
from jobdeck.tui.format import fit, one_line, short_id
from jobdeck.tui.screens.dialogs.dialog import ListDialog
from jobdeck.tui.widgets.pane import Entry, Pane, entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from jobdeck.core.model import Enqueued
    from jobdeck.core.plugins import Preset
    from jobdeck.tui.backend.parts import Creating
    from jobdeck.tui.backend.protocol import QuickSync

LABEL: Final = 17


class QuickSyncDialog(ListDialog[None]):
    """Stays open after a sync was queued, so that its result can be read."""

    DIALOG: ClassVar[str] = "sync"

    def __init__(self, creating: Creating) -> None:
        super().__init__()
        self._bindings = BindingsMap.merge([self._bindings, preset_bindings()])
        self.creating = creating
        self.syncs = {sync.preset.name: sync for sync in creating.quick_syncs()}
        self.busy = False
        self._asked = False

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content("Quick Sync")
            take = self.or_click(self.key("take"))
            box.border_subtitle = Content(f"a key or {take} queues it · {self.key('close')} closes")
            yield Pane(id="syncs")
            yield Static(id="result")

    def on_mount(self) -> None:
        self.pane.focus()

    def redraw(self) -> None:
        """Lists the presets; one that cannot be enqueued is grey and says why."""
        self.pane.show([self._entry(sync, self.pane.size.width) for sync in self.syncs.values()])
        self._offer()

    def on_pane_moved(self) -> None:
        self._offer()

    def on_pane_chosen(self) -> None:
        self.action_take()

    def action_take(self) -> None:
        self.action_queue(str(self.pane.current))

    def action_queue(self, name: str) -> None:
        """Queues a preset, one at a time, and shows the result."""
        sync = self.syncs.get(name)
        if sync is None or self.busy:
            return
        preset = sync.preset
        if sync.missing:
            self._show_result(Content.styled(f"{preset.label} cannot be queued: {sync.missing}.", "$warning"))
            return
        self.pane.find(name)
        self.busy = self._asked = True
        self._show_result(Content.styled(f"Queueing {preset.label}…", "$primary"))
        self.deck.background(partial(self.creating.quick_sync, name), partial(self._answered, preset))

    def _answered(self, preset: Preset, answer: Sequence[Enqueued] | Exception) -> None:
        self.busy = False
        if isinstance(answer, Exception):
            text = failure(f"queue {preset.label}", answer)
            self._show_result(Content.styled(text, "$error"))
            return
        lines = [Content.assemble(("✓ " if one.created else "· ", "$success"), line)
                 for one, line in zip(answer, results(answer), strict=True)]  # fmt: skip
        self._show_result(Content("\n").join([*lines, _same(preset.name)]))
        self.deck.poller.poke()

    def _offer(self) -> None:
        """Shows the equivalent command of the preset under the cursor, until a result takes its place."""
        if not self._asked:
            nothing = Content.styled("Nothing is queued until you press a key.", "$ink-muted")
            self._show_result(Content("\n").join([nothing, _same(str(self.pane.current))]))

    def _show_result(self, content: Content) -> None:
        if self.is_attached:
            self.query_one("#result", Static).update(content)
        else:
            self.deck.say(content.plain)

    def _entry(self, sync: QuickSync, width: int) -> Entry:
        grey, preset = bool(sync.missing), sync.preset
        words = sync.missing or preset.description
        key = self.key(preset.name)
        return entry(
            (f" {key}  ", "muted" if grey else "key"),
            (fit(preset.label, LABEL), "muted" if grey else "strong"),
            (fit(words, max(width - LABEL - 4 - len(key), 8)), "warn" if grey else "muted"),
            key=preset.name,
        )


def _same(name: str) -> Content:
    return Content.styled(f"jobdeck quick-sync {name}", "$accent")


def results(answers: Sequence[Enqueued]) -> list[str]:
    """The result for each job of a quick sync, in words."""
    lines = []
    first = answers[0].job if answers else None
    for place, one in enumerate(answers):
        job, name = one.job, f"{one_line(one.job.task_type)} {short_id(one.job.id)}"
        waits = ""
        if place and first is not None:
            waits = "; waits for the first" if job.blocked_by == first.id else "; does not wait for the first"
        if one.created:
            lines.append(f"{name} queued{waits}.")
        else:
            lines.append(f"{name} exists already ({job.status.value}){waits}.")
    return lines
