"""What the tests of `jobdeck.testing` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.core.testing import jobs


@pytest.fixture
def behave() -> Iterator[Callable[..., None]]:
    """Sets what the handlers of this test do: `behave(lambda params, ctx: …, other=…)`."""

    def give(parcel: Callable[[Any, Any], Any], **others: Callable[[Any, Any], Any]) -> None:
        jobs.behaviour.update(parcel=parcel, **others)

    yield give
    jobs.behaviour.clear()
