"""The names that clients give: short, in one line, and followed by the role that logged in."""

from __future__ import annotations

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from tests.support.queue import Connection


@pytest.mark.parametrize(
    "space", [" ", "\n", "\t", "\u00a0", "\u2007", "\u200b", "\u202e", "\u3000", "\ufeff", "\u2800"]
)
def test_white_space_in_a_name_does_not_push_the_role_away(conn: Connection, space: str) -> None:
    operator.cancel(conn, [conn.add().id], actor=f"Zoë{space * 40}(postgres){space * 40}")
    assert conn.value("SELECT actor FROM job_audit") == f"Zoë (postgres) ({conn.info.user})"


@pytest.mark.slow
def test_a_name_of_megabytes_is_cut(conn: Connection) -> None:
    ticket = producer.enqueue(conn, NewJob("alpha"), actor="é" * 5_000_000)
    name = conn.value("SELECT created_by FROM job_queue WHERE id = %s", ticket.job_id)
    assert name == f"{'é' * 100} ({conn.info.user})"
