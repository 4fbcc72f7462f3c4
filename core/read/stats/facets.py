"""Facets: what the runs of a group of errors, or the jobs of a filter, have more often than all runs of their type.

Values of payloads are personal. Who may not see payloads gets the key and the shares, and no value.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.read.batch import Query, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from jobdeck.core.model import Job
    from jobdeck.core.read.rows import Row

_FACETS: Final = """
SELECT f.facet, f.key, f.these, f.sampled, f.everywhere, f.failed, f.compared, f.odd,
    f.facet = 'payload' AND NOT job_sees_payloads() AS hidden,
    CASE WHEN f.facet <> 'payload' THEN to_jsonb(f.value) WHEN job_sees_payloads() AND f.odd THEN coalesce(
        (SELECT r.payload -> f.key FROM job_run_list AS r WHERE r.run_token = f.run_token AND NOT r.late),
        (SELECT j.payload -> f.key FROM job_list AS j WHERE j.id = f.job_id)) END AS value
FROM job_facets(%(task_type)s, %(fingerprint)s, %(jobs)s) AS f
"""
FACETED: Final = 3
"""Of how many types of a list, the commonest ones, the facets are read."""
SAMPLE: Final = 500
"""The most runs or jobs of a type that are read for its facets."""


@dataclass(frozen=True, slots=True)
class Facet:
    """One key, and the value that the sample has most often compared with the runs of the type.

    `these` of the `sampled` have the value, and `everywhere` of the `compared` runs of the type, of which `failed`
    failed. `kind` is `payload`, `worker`, `release` (of a worker whose row is there) or `attempt`; `value` is None
    unless the facet is odd and may be seen.
    """

    kind: str
    key: str
    value: Any
    these: int
    sampled: int
    everywhere: int
    failed: int
    compared: int
    odd: bool
    hidden: bool

    @property
    def share(self) -> float:
        return self.these / self.sampled

    @property
    def usual(self) -> float:
        return self.everywhere / self.compared if self.compared else 0.0


@dataclass(frozen=True, slots=True)
class Facets:
    """The facets of a sample, odd ones first, and how many runs or jobs the sample has."""

    read: int = 0
    all: tuple[Facet, ...] = ()

    @property
    def odd(self) -> tuple[Facet, ...]:
        return tuple(facet for facet in self.all if facet.odd)

    @property
    def first_to_hold(self) -> Facet | None:
        """The first odd facet of a payload whose value may be seen: jobs can be held by it."""
        return next((facet for facet in self.odd if facet.kind == "payload" and not facet.hidden), None)

    @property
    def usual(self) -> tuple[Facet, ...]:
        return tuple(facet for facet in self.all if not facet.odd)


def of_group(task_type: str, fingerprint: str | None) -> Query[Facets]:
    """The facets of the newest failed runs of a group of errors; without a fingerprint, of the type."""
    return _facets(task_type, fingerprint, None)


def of_jobs(task_type: str, jobs: Iterable[UUID]) -> Query[Facets]:
    """The facets of those of the jobs that have this type; at most `SAMPLE` are read."""
    return _facets(task_type, None, list(jobs))


def commonest(jobs: Sequence[Job]) -> dict[str, list[UUID]]:
    """The jobs of each of the `FACETED` types that most of them have, the commonest first."""
    types = Counter(job.task_type for job in jobs).most_common(FACETED)
    return {name: [job.id for job in jobs if job.task_type == name] for name, _ in types}


def _facets(task_type: str, fingerprint: str | None, jobs: list[UUID] | None) -> Query[Facets]:
    # Of jobs that have no key to compare no row says how many they are.
    bare = min(len(jobs or ()), SAMPLE)

    def read(rows: list[Row]) -> Facets:
        facets = tuple(Facet(kind=row.pop("facet"), **row) for row in rows)
        return Facets(facets[0].sampled if facets else bare, facets)

    return select(_FACETS, {"task_type": task_type, "fingerprint": fingerprint, "jobs": jobs}, read=read)
