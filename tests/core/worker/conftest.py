"""Async handlers that wait at a gate, and the slots of a loop without a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobdeck.core.postgres.database import Database
from tests.core.worker.async_handlers import Gate, Place


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
