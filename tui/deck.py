"""What screens, dialogs, forms and widgets need of the application: they know this protocol alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from jobdeck.tui import themes
from jobdeck.tui.backend.threads import Host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from textual.dom import DOMNode
    from textual.screen import Screen

    from jobdeck.core.model import Job
    from jobdeck.core.plugins import Page
    from jobdeck.tui.actions import Situation
    from jobdeck.tui.backend.canary import Canary
    from jobdeck.tui.backend.operations import Operations
    from jobdeck.tui.backend.poller import Poller
    from jobdeck.tui.backend.protocol import Backend, EmbeddedWorker, View
    from jobdeck.tui.backend.worker_log import WorkerLog


@dataclass(frozen=True, slots=True)
class Options:
    """How the dashboard is run. `interval` is seconds between two readings, `patience` the worker's drain time."""

    theme: str = themes.DARK.name
    environment: str = ""
    production: bool = False
    read_only: bool = False
    interval: float = 2.0
    patience: float = 30.0
    ticking: bool = True
    mouse: bool = False
    keymap: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Deck(Host, Protocol):
    """The application: what is known of the queue, what acts on it, and the way from one screen to another."""

    canaries: dict[tuple[str, str], Canary]
    """The canary of each group of errors, by the key of the group."""

    @property
    def options(self) -> Options:
        """How the dashboard is run."""

    @property
    def view(self) -> View | None:
        """The last answer of the database; None before the first."""

    @property
    def backend(self) -> Backend | None:
        """The backend, once it is made; `reach` makes it."""

    @property
    def operations(self) -> Operations:
        """What acts on the queue."""

    @property
    def poller(self) -> Poller:
        """When the queue is read, and what is known of the connection."""

    @property
    def log_lines(self) -> WorkerLog:
        """The log of this process."""

    @property
    def worker(self) -> EmbeddedWorker:
        """The worker inside this dashboard."""

    @property
    def read_only_reason(self) -> str | None:
        """Why nothing may be changed, or None."""

    def now(self) -> datetime:
        """The database's clock."""

    def time_at(self, monotonic: float) -> datetime:
        """What the database's clock shows when the monotonic one shows this."""

    def shows(self, screen: Screen[Any]) -> bool:
        """Whether nothing lies over a screen, not even a dialog."""

    def situation(self, jobs: Sequence[Job]) -> Situation:
        """What decides which actions can be taken on these jobs now."""

    def open_job(self, job: Job | UUID) -> None:
        """Opens the page of one job, of which at least the id is known."""

    def open_page(self, name: str) -> None:
        """Opens a page by its name in the table of actions."""

    def open_table(self, page: Page) -> None:
        """Opens a page of a plugin."""

    def act_on_list(self, action_id: str) -> None:
        """Takes an action of the list, which may be covered by another screen."""

    def seek(self, job_id: UUID) -> None:
        """Has the list's cursor go to a job that has just come."""

    def next_theme(self) -> None:
        """Changes to the next theme, for this session."""

    def look_away(self, *, covered: bool) -> None:
        """Stops reading the list while another screen covers it."""

    def leave(self) -> None:
        """Leaves the dashboard, after asking when jobs run here."""


def deck_of(node: DOMNode) -> Deck:
    """The application that a screen or a widget belongs to."""
    return cast("Deck", node.app)
