"""The page of facets: what the jobs of the list have more often than all runs of their type."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from jobdeck.core.read.filters import format_filter
from jobdeck.core.read.stats.facets import SAMPLE, commonest, of_jobs
from jobdeck.core.words.facets import filter_of
from jobdeck.tui.commands import facets_twin
from jobdeck.tui.format import one_line, plural
from jobdeck.tui.screens.dialogs.processing import Condition
from jobdeck.tui.screens.nouns import OPENS, open_noun
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import facets
from jobdeck.tui.text.facets import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import Filter
    from jobdeck.core.read.stats.facets import Facet
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry


class FacetsOfJobs(ListPage[Sample]):
    """The facets of the first jobs that tab and filter choose, read when the page is opened and after an action."""

    SCOPE: ClassVar[Scope] = "facets"
    OF_TYPES: ClassVar[bool] = True
    HEADING: ClassVar[str] = "Facets"
    EVERY: ClassVar[float] = math.inf

    @cached_property
    def listed(self) -> Filter:
        """The filter whose jobs are read: that of the list when the page was opened."""
        return self.deck.poller.request.filter

    def read(self, backend: Backend) -> Sample:
        page = backend.first_jobs(self.listed, SAMPLE)
        found = {name: backend.read(of_jobs, name, ids) for name, ids in commonest(page.jobs).items()}
        return Sample(len(page.jobs), page.next is not None, len({job.task_type for job in page.jobs}), found)

    def entries(self, data: Sample, width: int) -> Sequence[Entry]:
        said = one_line(format_filter(self.listed))
        nothing = f"No job matches {said}." if said else "The queue is empty."
        return facets.sample_lines(data, width, nothing, self.deck.key("processing"))

    def summary(self, data: Sample) -> list[Span]:
        said = one_line(format_filter(self.listed))
        first = "the first " if data.more else ""
        return [(f"{said}  " if said else "", "accent"), (f"{first}{plural(data.jobs, 'job')} read", "text"),
                (f"  {facets_twin(said, SAMPLE)}", "muted")]  # fmt: skip

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"errors.jobs": self._list_jobs}

    def on_pane_chosen(self) -> None:
        self.action_do("errors.jobs")

    @property
    def type_here(self) -> str | None:
        """The task type of the line under the cursor."""
        entries = self.pane.entries[: self.pane.cursor + 1] if self.is_there else ()
        return next((one.key[1] for one in reversed(entries) if isinstance(one.key, tuple)), None)

    @property
    def facet(self) -> Facet | None:
        """The odd facet under the cursor; None unless the cursor is on one."""
        key = self.pane.current
        found = self.data.facets.get(self.type_here or "") if self.data is not None else None
        return next((one for one in found.odd if key == ("facet", self.type_here, one.key)), None) if found else None

    def condition_here(self) -> Condition | None:
        """The value of the facet under the cursor, otherwise of the first one of its type that may be seen."""
        found = self.data.facets.get(self.type_here or "") if self.data is not None else None
        facet = self.facet or (found.first_to_hold if found else None)
        if facet is None or self.type_here is None or facet.kind != "payload" or facet.hidden:
            return None
        return Condition(self.type_here, facet.key, facet.value)

    def _list_jobs(self) -> None:
        """Lists the jobs of the type under the cursor; on a facet only those with its value, or opens its worker."""
        if self.type_here is None:
            self.deck.say("No job on this line.")
            return
        facet, wanted = self.facet, replace(self.listed, task_type=self.type_here)
        if facet is not None and facet.kind in OPENS:
            open_noun(self.deck, (facet.kind, facet.value))
            return
        narrower = filter_of(wanted, facet) if facet is not None else wanted
        if narrower is None:
            self.deck.say("No filter finds the jobs with this value.", "warning")
            return
        self.deck.list_filter(narrower)
