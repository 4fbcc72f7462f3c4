"""The dialog that changes the settings of one task type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from jobdeck.core.errors import UsageError
from jobdeck.core.times import parse_ahead
from jobdeck.core.words.wording import (
    CODE,
    DEFAULT,
    NONE,
    keyless_words,
    parse_age,
    parse_limit,
    parse_rate_changes,
    parse_share,
    percent,
)
from jobdeck.tui.commands import type_twin
from jobdeck.tui.format import age, one_line
from jobdeck.tui.screens.dialogs.dialog import FieldsDialog
from jobdeck.tui.widgets.fields import Twin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from textual.app import ComposeResult

    from jobdeck.core.read.type_settings import TypeLine

OFF: Final = "off"
YES: Final = "yes"
NO: Final = "no"
SHARES: Final = (("warning_share", "Warn"), ("critical_share", "Critical"))
COUNTS: Final = (
    ("max_running", "Jobs of the type that run at the same time, over all workers"),
    ("max_per_key", "Jobs that run with the same concurrency key"),
    ("priority", "Priority of jobs that are enqueued without one"),
)


@dataclass(frozen=True, slots=True)
class SettingsAnswer:
    """The settings to change, by their names; None resets one."""

    changes: Mapping[str, float | datetime | str | None]
    reason: str | None


class TypeSettings(FieldsDialog[SettingsAnswer]):
    """Asks for thresholds of the failure share, a mute, limits, and whether another runner has the type.

    Nothing changes before Save.
    """

    DIALOG: ClassVar[str] = "type"
    FIELDS: ClassVar[tuple[str, ...]] = (
        "warning_share", "critical_share", "muted_until", "max_running", "max_per_key", "rate", "key_rate", "max_age",
        "priority", "set_aside", "reason",
    )  # fmt: skip

    def __init__(self, line: TypeLine) -> None:
        super().__init__()
        self.line = line

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", can_focus=False) as box:
            box.border_title = Content(f"Settings of {one_line(self.line.task_type)}")
            box.border_subtitle = Content(f"{self.key('save')} saves")
            yield Static(Content("Health warns from these shares of failed runs on. They hold for all workers."))
            for name, word in SHARES:
                share: float | None = getattr(self.line, name)
                label = f"{word} from, such as 20%; {DEFAULT} for the rule of all types"
                yield from self.field(label, name, percent(share))
            until = f"2h, tomorrow 9:00 (UTC), {OFF}; empty leaves it"
            yield from self.field(f"Mute failure alerts until{self._muted()}", "muted_until", example=until)
            for name, word in COUNTS[:2]:
                yield from self._number(name, word)
            rate = f"Jobs that start in a time, such as 100/m or 5/10s, or {self._words('rate_runs')}"
            yield from self.field(rate, "rate", self.line.rate or NONE)
            rate = f"The same for the jobs with each concurrency key, or {NONE}"
            yield from self.field(rate, "key_rate", self.line.key_rate or NONE)
            expires = f"New one-time jobs expire so long after they are due: 2d, or {self._words('max_age_seconds')}"
            yield from self.field(expires, "max_age", self.line.max_age or NONE)
            yield from self._number(*COUNTS[2])
            aside = "Set aside for another runner; no worker takes its jobs: yes or no"
            yield from self.field(aside, "set_aside", YES if self.line.set_aside else NO)
            reason = "Reason, for other operators; needed to set a type aside"
            yield from self.field(reason, "reason", example="e.g. known vendor outage, INC-123")
            yield Static(id="warning")
            yield from self.ending("Save")

    def _number(self, name: str, word: str) -> ComposeResult:
        yield from self.field(f"{word}: a number, or {self._words(name)}", name, self._count(name))

    def _words(self, name: str) -> str:
        """The words that a field takes, `code` where the code has a value."""
        return f"{NONE}, or {CODE}" if name in self.line.code else NONE

    def _count(self, name: str) -> str:
        count: int | None = getattr(self.line, name)
        return NONE if count is None else str(count)

    def _muted(self) -> str:
        until = self.line.muted_until
        return f"  now muted until {until:%m-%d %H:%M}Z, {age(until - self.deck.now())} more" if until else ""

    def draw(self) -> None:
        """Shows the equivalent command, none while a field cannot be read or nothing differs, and a warning."""
        try:
            changes = self._changes()
        except UsageError:
            changes = {}
        warning = keyless_words(one_line(self.line.task_type), changes, concurrency=self.line.concurrency)
        shown = self.query_one("#warning", Static)
        shown.update(Content.styled(warning, "$warning"))
        shown.display = bool(warning)
        self.query_one(Twin).show(type_twin(self.line.task_type, changes, self._reason()) if changes else "")

    def _reason(self) -> str | None:
        return self.text("reason") or None

    def _changes(self) -> dict[str, float | datetime | str | None]:
        """The settings that differ.

        Raises:
            UsageError: a field cannot be read.
        """
        found: dict[str, float | datetime | str | None] = {}
        for name, word in SHARES:
            share = parse_share(self.text(name) or DEFAULT, word)
            if share != getattr(self.line, name):
                found[name] = share
        text = self.text("muted_until")
        if text.lower() == OFF:
            found["muted_until"] = None
        elif text:
            now = self.deck.now()
            until = parse_ahead(text, now, what="time until which to mute")
            found["muted_until"] = now + until if isinstance(until, timedelta) else until
        found.update(self._limits())
        aside = self.text("set_aside").lower()
        if aside not in {YES, NO}:
            raise UsageError("Set aside for another runner: answer yes or no.")
        if (aside == YES) != self.line.set_aside:
            found["set_aside"] = aside == YES
        return found

    def _limits(self) -> dict[str, int | str | None]:
        """The limits that differ. A rate is changed as a whole."""
        found: dict[str, int | str | None] = {}
        for name, _ in COUNTS:
            count = parse_limit(self.text(name) or NONE, "A limit of jobs")
            if count != getattr(self.line, name):
                found[name] = count
        for name in ("rate", "key_rate"):
            rates = parse_rate_changes(self.text(name) or NONE, "limit of starts", of_key=name == "key_rate")
            if any(rates[one] != getattr(self.line, one) for one in rates):
                found.update(rates)
        age = parse_age(self.text("max_age") or NONE, "maximum age")
        if age != self.line.max_age_seconds:
            found["max_age_seconds"] = age
        return found

    def read(self) -> SettingsAnswer:
        changes = self._changes()
        if not changes:
            raise UsageError("Nothing is changed yet.")
        if changes.get("set_aside") and self._reason() is None:
            raise UsageError("Say in the reason which runner has the type.")
        return SettingsAnswer(changes, self._reason())
