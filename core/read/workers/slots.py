"""The slots of workers by kind of handler."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from jobdeck.core.times import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def slot_words(facts: Mapping[str, Any]) -> str:
    """The slots of a type's workers: how many of its kind, and whether all are taken."""
    slots, workers = int(facts.get("slots") or 0), int(facts.get("workers") or 0)
    kind = facts.get("kind") or "thread"
    whose = "the worker that handles" if workers == 1 else f"the {workers:,} workers that handle"
    running = int(facts.get("running") or 0)
    if running < slots:
        return f"{running:,} of {slots:,} {kind} slots of {whose} this type are taken."
    taken = f"All {slots:,} {kind} slots of {whose} this type are"
    if slots == 1:
        taken = f"The only {kind} slot of {whose} this type is"
    seconds = facts.get("seconds")
    longest = f"; the longest run is at {format_duration(timedelta(seconds=seconds))}" if seconds is not None else ""
    return f"{taken} busy{longest}."
