"""A schema that was renamed after the queue was installed into it: its functions look into the earlier name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import sql

from jobdeck.core.errors import Refused, SchemaMismatch
from jobdeck.core.plugins import use_plugins
from jobdeck.core.schema import check_schema, examine, install_schema, plan_installation
from jobdeck.core.schema.components import queue_component
from tests.support.queue import Connection

pytestmark = pytest.mark.installation

QUEUE = (queue_component(),)
NEW = "The Jobs"


@pytest.fixture
def renamed(empty_database_url: str) -> Iterator[Connection]:
    """A connection to a queue whose schema was renamed, and another queue has taken the earlier name."""
    with Connection.connect(empty_database_url, autocommit=True) as conn, use_plugins():
        conn.execute("SET search_path = jobs")
        install_schema(conn, schema="jobs", components=QUEUE)
        conn.execute(sql.SQL("ALTER SCHEMA jobs RENAME TO {}").format(sql.Identifier(NEW)))
        install_schema(conn, schema="jobs", components=QUEUE)
        conn.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(NEW)))
        yield conn


def jobs(conn: Connection) -> tuple[int, int]:
    """How many jobs the renamed queue has, and the other one."""
    here = conn.value("SELECT count(*) FROM job_queue")
    return here, conn.value("SELECT count(*) FROM jobs.job_queue")


def test_every_program_is_refused_before_it_writes_into_the_queue_of_the_earlier_name(renamed: Connection) -> None:
    with pytest.raises(SchemaMismatch, match="renamed, and its functions still look into the schema jobs") as caught:
        check_schema(renamed, QUEUE)
    assert "`jobdeck init --repair`" in str(caught.value)
    with pytest.raises(Refused, match=r"was renamed.*Nothing was changed\."):
        install_schema(renamed, schema=NEW, components=QUEUE)


def test_a_repair_binds_the_functions_to_the_new_name_and_finds_nothing_else_changed(renamed: Connection) -> None:
    plan = plan_installation(renamed, QUEUE, schema=NEW, repair=True)
    assert plan.overwritten == ("all functions, which looked into the schema jobs",)
    assert plan.restored == ()
    install_schema(renamed, schema=NEW, components=QUEUE, repair=True)
    check_schema(renamed, QUEUE)
    assert examine(renamed).altered == ()
    renamed.add()
    assert jobs(renamed) == (1, 0)


def test_what_else_was_changed_by_hand_is_found_in_a_renamed_schema_too(renamed: Connection) -> None:
    renamed.execute("ALTER TABLE job_notes ALTER COLUMN note DROP NOT NULL")
    with pytest.raises(Refused, match=r"the column job_notes\.note differs from what Jobdeck installed"):
        install_schema(renamed, schema=NEW, components=QUEUE, repair=True)


def test_the_earlier_name_helps_as_well(renamed: Connection) -> None:
    renamed.execute("DROP SCHEMA jobs CASCADE")
    renamed.execute(sql.SQL("ALTER SCHEMA {} RENAME TO jobs").format(sql.Identifier(NEW)))
    renamed.execute("SET search_path = jobs")
    check_schema(renamed, QUEUE)
