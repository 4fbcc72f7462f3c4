"""What an operation may cost on a queue of any size, and the ids of the jobs that all queues have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from tests.support.plans import Cost, cost_of
from tests.support.queue import Connection

CROWD: Final = UUID("00000000-0000-7000-8001-000000000007")
FAILED: Final = UUID("00000000-0000-7000-8006-000000000001")
REMOVED: Final = UUID("00000000-0000-7000-8007-000000000007")
EVERY_TYPE: Final = ("alpha", "beta", "crowd", "gamma", "later", "nothing of this type")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the product, and the most index entries and blocks it may touch, whatever the queue holds.

    `given` finds what it is called with. `reads` marks what changes nothing and is planned again for each call, and
    so may read a table from end to end that has no pages. `growth` is how many times more blocks it may touch when
    the queue is big than when it is small. `sorts` marks what sorts the first thousands of jobs: for these the planner
    may read all of them from a table that was never analyzed.
    """

    call: Callable[..., object]
    entries: int = 5000
    blocks: int = 5000
    given: Callable[[Connection], tuple[Any, ...]] = lambda conn: ()  # noqa: ARG005 -- nothing is needed
    reads: bool = False
    growth: int = 3
    sorts: bool = False


def problems(what: str, found: Cost, operation: Operation, *, big: bool) -> Iterator[str]:
    """What a queue says against an operation: whole tables read, too many blocks, in a `big` one too many entries."""
    if found.whole_tables and not (operation.reads and what in {"empty", "emptied"}):
        yield f"{what}: reads the whole of {found.whole_tables}"
    if big and found.rows > operation.entries:
        yield f"{what}: reads {found.rows} index entries, {dict(found.entries)}"
    if found.blocks.total() > operation.blocks:
        yield f"{what}: touches {found.blocks.total()} blocks, {dict(found.blocks)}"


def cost(conn: Connection, operation: Operation) -> Cost:
    """What an operation costs on this queue, which is the same afterwards."""
    given = operation.given(conn)
    return cost_of(conn, lambda conn: operation.call(conn, *given), undo=not operation.reads)
