"""A pool whose users are interrupted at any step keeps all of its places."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import count, takewhile

import pytest

from jobdeck.core.postgres import pool as module
from jobdeck.core.postgres.database import Database
from jobdeck.core.postgres.pool import Pool
from tests.support.interrupting import interrupted_at


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("use", [Pool.connection, Pool.lend])
def test_a_user_that_is_interrupted_at_any_step_leaves_its_place_to_others(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, use: Callable[[Pool], AbstractContextManager[object]]
) -> None:
    # An interrupted step may drop a connection that is open, which psycopg warns of.
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    with Database(empty_database_url, application_name="test", max_size=2) as database:
        pool = database._pool

        def work() -> None:
            with use(pool):
                pass

        for step in takewhile(lambda step: interrupted_at(step, module.__file__, work), count()):
            with pool.connection() as first, pool.connection() as second:
                assert first is not second, step
        assert step > 10
