"""What the runs of the competition's job types share: its settings, and its vendors' clients."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import Clients
from jobdeck.core.registry import JobContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Resources:
    """The value of `ctx.resources` for the competition's job types."""

    settings: CompetitionSettings
    clients: Clients


class CompetitionContext(JobContext, Protocol):
    """The context of the competition's job types."""

    @property
    def resources(self) -> Resources:
        """Its settings and clients."""


@contextmanager
def resources(settings: Settings, _database: object) -> Iterator[Resources]:
    """The resources of one process; the clients that were built are closed with it."""
    own = settings.of(CompetitionSettings)
    with closing(Clients(own)) as clients:
        yield Resources(own, clients)
