"""The slots of workers by kind of handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.model import Worker


class Lane(NamedTuple):
    """The slots of one kind of handler, and how many have a job."""

    taken: int
    slots: int


def lanes(workers: Iterable[Worker]) -> dict[str, Lane]:
    """The slots of live workers by kind of handler: thread, async, process. What is not known of them is of threads."""
    found = {kind: Lane(0, 0) for kind in ("thread", "async", "process")}
    for worker in workers:
        own = worker.slots or {"thread": {"taken": worker.running, "slots": worker.concurrency}}
        for kind, lane in own.items() if worker.alive else ():
            before = found.get(kind, Lane(0, 0))
            found[kind] = Lane(before.taken + lane["taken"], before.slots + lane["slots"])
    return {kind: lane for kind, lane in found.items() if lane.slots}
