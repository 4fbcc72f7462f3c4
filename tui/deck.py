"""The part of the application that screens, dialogs, forms and widgets use: a protocol, and the start options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from jobdeck.core.read.operators.preferences import Preferences
from jobdeck.tui import themes
from jobdeck.tui.backend.threads import Host

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from textual.dom import DOMNode
    from textual.screen import Screen

    from jobdeck.core.model import Filter, Job
    from jobdeck.core.plugins import Page
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.actions import Situation
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.backend.operations import Operations
    from jobdeck.tui.backend.poller import Poller
    from jobdeck.tui.backend.protocol import Canary, EmbeddedWorker, View
    from jobdeck.tui.backend.worker_log import WorkerLog


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the dashboard. `interval` (between reads) and `patience` (the worker's drain time) are seconds.

    With `few_colours` the terminal has 256. `opened` is the name of the database, if it was opened from the fleet.
    """

    theme: str = themes.DARK.name
    few_colours: bool = False
    environment: str = ""
    production: bool = False
    read_only: bool = False
    interval: float = 2.0
    patience: float = 30.0
    ticking: bool = True
    mouse: bool = False
    opened: str = ""
    keymap: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preferences: Preferences = field(default_factory=Preferences)


class Deck(Host, Protocol):
    """The application: the data read, the actions, and the navigation between screens."""

    canaries: dict[tuple[str, str], Canary]
    """The canary of each error group, by the group's key."""

    @property
    def options(self) -> Options: ...

    @property
    def view(self) -> View | None:
        """The data last read; None before the first answer."""

    @property
    def backend(self) -> Backend | None:
        """The backend; None until `reach` makes it."""

    @property
    def operations(self) -> Operations: ...

    @property
    def poller(self) -> Poller: ...

    @property
    def log_lines(self) -> WorkerLog:
        """The log of this process."""

    @property
    def worker(self) -> EmbeddedWorker:
        """The state of the worker inside this dashboard."""

    @property
    def read_only_reason(self) -> str | None:
        """Why changes are not allowed; None when they are."""

    def now(self) -> datetime:
        """The time of the database's clock."""

    def shows(self, screen: Screen[Any]) -> bool:
        """Whether a screen is on top, without a dialog over it."""

    def situation(self, jobs: Sequence[Job]) -> Situation:
        """The facts that decide which actions are possible on these jobs."""

    def open_job(self, job: Job | UUID, run: int | None = None) -> None:
        """Opens the page of a job, with this run in full instead of the newest one."""

    def open_page(self, name: str) -> None:
        """Opens a page by its name in the table of actions."""

    def open_over(self, name: str, wanted: Hashable | None = None, **given: str) -> None:
        """Opens a page over the open one, with the cursor on the line with the key `wanted`. `esc` leads back.

        `given` narrows the page down, as its constructor takes it.
        """

    def open_table(self, page: Page) -> None:
        """Opens a page of a plugin."""

    def act_on_list(self, action_id: str) -> None:
        """Runs an action of the job list, even when another screen covers it."""

    def list_group(self, group: ErrorGroup) -> None:
        """Shows the list of jobs with those of a group of errors. Who leaves it gets back to the pages open now."""

    def list_filter(self, wanted: Filter) -> None:
        """Shows the list of jobs with those that match. Who leaves it gets back to the pages open now."""

    def seek(self, job_id: UUID) -> None:
        """Moves the cursor of the list to a job, as soon as the job is listed."""

    def next_theme(self) -> None:
        """Switches to the next theme, for this session."""

    def look_away(self, *, covered: bool) -> None:
        """Stops reading the list while another screen covers it, and starts again afterwards."""

    def leave(self) -> None:
        """Leaves the program. Asks first when jobs are running here."""

    def return_to_fleet(self) -> None:
        """Leaves this database for the list of several. Asks first when jobs are running here."""


def deck_of(node: DOMNode) -> Deck:
    """The application of a screen or a widget."""
    return cast("Deck", node.app)
