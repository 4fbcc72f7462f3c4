"""Handlers that wait at a gate, those of the processes, and the slots of a loop without a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.postgres.database import Database
from jobdeck.core.registry import JobType, load
from tests.core.worker.async_handlers import Gate, Place
from tests.core.worker.process_handlers import MODULE


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def stubborn() -> Iterator[Gate]:
    gate = Gate(stubborn=True)
    yield gate
    gate.open()


@pytest.fixture
def place() -> Iterator[Callable[..., Place]]:
    made: list[Place] = []
    with Database("host=/nowhere", application_name="test") as database:

        def make(handler: Callable[[Any, Any], Any], **facts: Any) -> Place:
            made.append(Place(handler, database, **facts))
            return made[-1]

        yield make
        for one in made:
            one.slots.close()


@pytest.fixture(scope="session")
def types() -> tuple[JobType, ...]:
    """The types whose handlers run in processes."""
    return tuple(load([MODULE]))


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """A file in which handlers of processes note what they did."""
    path = tmp_path / "notes"
    path.touch()
    return path
