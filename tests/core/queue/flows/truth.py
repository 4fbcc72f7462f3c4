"""What became of the members of flows, noted beside the queue, and where the queue does not act accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from tests.support.queue import Connection

TABLES: Final = "seen_runs, seen_ends"
SET_UP: Final = """
CREATE TABLE seen_runs (job_id uuid, success boolean);
CREATE TABLE seen_ends (job_id uuid PRIMARY KEY, state text);
CREATE FUNCTION see_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen_runs VALUES (new.job_id, new.removed);
    IF new.removed THEN
        INSERT INTO seen_ends VALUES (new.job_id, 'succeeded')
        ON CONFLICT (job_id) DO UPDATE SET state = excluded.state;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION see_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen_ends VALUES (new.id, new.status) ON CONFLICT (job_id) DO UPDATE SET state = excluded.state;
    RETURN NULL;
END $$;
CREATE FUNCTION see_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE seen_ends SET state = 'deleted' WHERE job_id = new.job_id;
    RETURN NULL;
END $$;
CREATE TRIGGER see_run AFTER INSERT ON job_runs FOR EACH ROW EXECUTE FUNCTION see_run();
CREATE TRIGGER see_state AFTER INSERT OR UPDATE OF status ON job_queue FOR EACH ROW EXECUTE FUNCTION see_state();
CREATE TRIGGER see_delete AFTER INSERT ON job_audit FOR EACH ROW WHEN (new.action = 'delete')
    EXECUTE FUNCTION see_delete();
"""
"""`seen_ends` has the last state of each job: its status, `succeeded` once it has left the queue, or `deleted`."""

TOO_EARLY: Final = """
SELECT m.name, m.needs, b.name AS blocker, e.state FROM job_dependencies d
JOIN job_flow_members m ON m.job_id = d.job_id LEFT JOIN job_flow_members b ON b.job_id = d.blocker_id
JOIN seen_ends e ON e.job_id = d.blocker_id
WHERE d.job_id = ANY (%s) AND d.job_id NOT IN (SELECT job_id FROM seen_runs) AND (
    e.state IN ('pending', 'running') OR d.needs = 'success' AND e.state <> 'succeeded')
"""
"""Blockers because of which the first run of a member must not begin."""
MISTOLD: Final = """
SELECT m.name, o.name AS blocker, e.state, o.outcome
FROM job_flow_members m CROSS JOIN job_flow_outcomes(m.job_id) o JOIN seen_ends e ON e.job_id = o.job_id
WHERE m.job_id = %s AND m.job_id NOT IN (SELECT job_id FROM seen_runs) AND o.outcome IS DISTINCT FROM e.state
    -- One that had ended for the member before somebody cancelled or deleted it.
    AND NOT (e.state IN ('cancelled', 'deleted') AND o.outcome IN ('failed', 'cancelled'))
"""
"""Outcomes that the first run of a member gets and that are not those of its blockers."""
ASTRAY: Final = """
WITH judged AS (
    SELECT m.job_id, m.name, m.needs, m.set_aside, q.status, q.attempts, q.blocked_by,
        coalesce(bool_or(e.state IN ('pending', 'running')), false) AS live,
        coalesce(bool_or(e.state IN ('failed', 'cancelled', 'deleted')), false) AS bad,
        array_agg(d.blocker_id) FILTER (WHERE e.state IN ('pending', 'running')) AS open
    FROM job_flow_members m JOIN job_queue q ON q.id = m.job_id
    LEFT JOIN job_dependencies d ON d.job_id = m.job_id LEFT JOIN seen_ends e ON e.job_id = d.blocker_id
    GROUP BY m.job_id, q.id
)
SELECT j.name, j.needs, j.status, j.set_aside, j.live, j.bad, j.blocked_by,
    (SELECT b.name FROM job_flow_members b WHERE b.job_id = j.blocked_by) AS blocker
FROM judged j WHERE
    j.status = 'pending' AND j.attempts = 0 AND j.job_id NOT IN (SELECT job_id FROM seen_runs) AND (
        j.needs = 'success' AND j.bad
        OR j.live AND coalesce(j.blocked_by <> ALL (j.open), true)
        OR NOT j.live AND (j.blocked_by IS NOT NULL OR j.needs = 'failure' AND NOT j.bad))
    OR j.status = 'cancelled' AND j.set_aside = 'lost' AND NOT j.bad
    OR j.status = 'cancelled' AND j.set_aside = 'skipped' AND (j.bad OR j.live)
    OR j.status <> 'cancelled' AND j.set_aside IS NOT NULL
    OR j.status = 'cancelled' AND j.set_aside IS NULL AND NOT exists (
        SELECT FROM job_audit a WHERE a.job_id = j.job_id AND a.action = 'cancel')
"""
"""Members that wait for none of those that have not ended, that wait although nothing holds them up, or that were
cancelled for no reason, and those that were not although there is one."""
HELD_UP: Final = """
SELECT q.concurrency_key FROM job_queue q WHERE q.concurrency_key IS NOT NULL
    AND NOT exists (SELECT FROM job_recheck r WHERE r.concurrency_key = q.concurrency_key)
GROUP BY q.concurrency_key
HAVING bool_or(q.status = 'pending' AND q.blocked_by IS NULL) AND NOT bool_or(q.status = 'running'
    OR q.status = 'pending' AND q.blocked_by IS NULL AND NOT q.in_line)
"""
"""Lines of concurrency keys of which no job can run."""
TWICE: Final = "SELECT job_id FROM seen_runs WHERE success GROUP BY job_id HAVING count(*) > 1"


def assert_right(conn: Connection) -> None:
    """Fails if a member does not wait, or does not run, as the ends of its blockers say."""
    for name, statement in (("astray", ASTRAY), ("held up", HELD_UP), ("ran twice", TWICE)):
        found = conn.execute(statement).fetchall()
        assert not found, (name, found)


def assert_may_run(conn: Connection, members: Sequence[UUID]) -> None:
    """Fails if a first run of one of these, which was claimed in this transaction, is too early or mistold."""
    found: list[Any] = conn.execute(TOO_EARLY, (list(members),)).fetchall()
    assert not found, ("too early", found)
    for job_id in members:
        found = conn.execute(MISTOLD, (job_id,)).fetchall()
        assert not found, ("mistold", found)
