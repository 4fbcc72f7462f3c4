"""Real scrapes: of a server, and of a worker with an address for its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from jobdeck.core.http.worker_metrics import WorkerMetrics
from jobdeck.core.registry import JobType
from jobdeck.core.worker.worker import Worker
from tests.core.http.support import METRICS, Open
from tests.support.serving import Got, ask
from tests.support.waiting import until
from tests.support.working import a_worker, quick_settings

LOOPBACK = "127.0.0.1:0"


@dataclass(frozen=True)
class Exporting:
    """A worker and what serves its metrics."""

    worker: Worker
    metrics: WorkerMetrics

    def get(self, path: str = "/metrics", **headers: str) -> Got:
        """One request over a connection of its own."""
        until(self.metrics.opened.is_set, "the address of the metrics")
        return ask(self.metrics.address, "GET", path, headers=headers)

    def text(self) -> str:
        got = self.get()
        assert got.status == 200
        return got.body.decode()


@contextmanager
def exporting(
    url: str,
    *types: JobType,
    address: str = LOOPBACK,
    settings: dict[str, Any] | None = None,
    start: bool = True,
    **facts: Any,
) -> Iterator[Exporting]:
    """A worker that runs, whose metrics can be read as soon as the address is open. Without `start` it does not run."""
    configured = quick_settings(**(settings or {}))
    served = WorkerMetrics(configured, address)
    with a_worker(url, *types, settings=configured, **facts) as worker:
        served.start(worker)
        if start:
            worker.start()
        try:
            yield Exporting(worker, served)
        finally:
            served.stop()


def of_the_queue(door: Open) -> str:
    """The text of a server's metrics."""
    got = door.call("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS}"})
    assert got.status == 200
    return got.body.decode()


Labels = tuple[tuple[str, str], ...]


def values(text: str, name: str) -> dict[Labels, float]:
    """The samples of one name, by their labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def number(text: str, name: str, **labels: str) -> float:
    """One sample; 0 where it is not there."""
    return values(text, name).get(tuple(sorted(labels.items())), 0.0)


@dataclass(frozen=True)
class Exported:
    """One metric as it is exported; the names of its labels are without `le`."""

    name: str
    kind: str
    labels: frozenset[str]


def exported(text: str) -> set[Exported]:
    """All metrics of a text, with the name that a monitor stores: that of a counter ends with `_total`."""
    found = set()
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        found.add(Exported(name, family.type, labels))
    return found
