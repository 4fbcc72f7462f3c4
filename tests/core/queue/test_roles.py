"""Who may do what: the group roles, signed in as each, and the rights in the catalog."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from psycopg import sql

from jobdeck.core.model import Filter, NewJob, RunOutcome, Status
from jobdeck.core.programme.cutover import ends
from jobdeck.core.programme.people import find_coaches
from jobdeck.core.queue import leases, presence, producer
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.read import history, reports
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.stats import error_groups
from jobdeck.core.read.verdict.health import health
from jobdeck.core.schema import check_schema, install_schema
from tests.support.catalog import catalog
from tests.support.health import announce
from tests.support.original import its_owner, original_database
from tests.support.people import DENIED, GROUPS, People
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, BASE, CAP, WORKER, Connection, report
from tests.support.working import claimed

pytestmark = pytest.mark.competition

SECRET = {"coachId": "0a7d0c2e-1f9b-4f0e-8f5d-0d6f5f0a0001", "email": "ada@example.org", "names": ["Ada", "Grace"],
          "deep": {"phone": "555-0100"}, "count": 3, "dryRun": True, "none": None}  # fmt: skip
REDACTED = {"coachId": "0a7d0c2e-1f9b-4f0e-8f5d-0d6f5f0a0001", "email": "hidden", "names": "2 hidden",
            "deep": "hidden", "count": 3, "dryRun": True, "none": None}  # fmt: skip
DAY = timedelta(days=1)


def assert_names_nobody(*shown: object) -> None:
    """Nothing is shown of the secrets that the tests put into payloads, outputs, checkpoints and logs."""
    for secret in ("example.org", "Grace", "555-0100"):
        assert secret not in repr(shown)


def act_calls() -> dict[str, Callable[[Connection, Any], object]]:
    """What an operator may call."""
    return {
        "retry": lambda conn, job: queue_operator.retry(conn, [job.id], actor=ACTOR),
        "cancel": lambda conn, job: queue_operator.cancel(conn, [job.id], actor=ACTOR),
        "delete": lambda conn, job: queue_operator.delete(conn, [job.id], actor=ACTOR),
        "restore": lambda conn, job: queue_operator.restore(conn, [job.id], actor=ACTOR),
        "edit": lambda conn, job: queue_operator.edit(conn, job.id, changes={"priority": 1}, actor=ACTOR),
        "pause": lambda conn, _: queue_operator.pause(conn, reason=None, actor=ACTOR),
        "resume": lambda conn, _: queue_operator.resume(conn, actor=ACTOR),
        "cleanup": lambda conn, _: queue_operator.cleanup(conn, actor=ACTOR, older_than=DAY, dry_run=False),
        "purge": lambda conn, _: queue_operator.purge(conn, actor=ACTOR, older_than=DAY, dry_run=False),
        "reveal": lambda conn, job: queue_operator.reveal(conn, job.id, actor=ACTOR),
    }


def enqueue_calls() -> dict[str, Callable[[Connection, Any], object]]:
    return {
        "enqueue": lambda conn, _: producer.enqueue(conn, NewJob("alpha"), actor=ACTOR),
        "enqueue_many": lambda conn, _: producer.enqueue_many(conn, [NewJob("alpha")], actor=ACTOR),
        "old enqueue": lambda conn, _: conn.execute("SELECT job_queue_enqueue('alpha')"),
    }


def work_calls() -> dict[str, Callable[[Connection, Any], object]]:
    """What a worker may call."""
    return {
        "claim": lambda conn, _: conn.claim(),
        "next_due": lambda conn, _: leases.next_due(conn, ["alpha"]),
        "heartbeat": lambda conn, job: leases.heartbeat(conn, "w", [(job.id, 1, None)], 60),
        "checkpoint": lambda conn, job: leases.save_checkpoint(conn, job.id, 1, {}),
        "finish": lambda conn, job: leases.finish(
            conn, "w", [report(claimed(id=job.id))], retry_base=BASE, retry_cap=CAP
        ),
        "reap": lambda conn, _: conn.reap(),
        "report": lambda conn, _: announce(conn, "w", types=[]),
        "remove": lambda conn, _: presence.remove_worker(conn, "w"),
    }


class TestViewer:
    @pytest.mark.slow
    def test_it_reads_every_screen(self, owner: Connection, viewer: Connection) -> None:
        job = owner.add()
        owner.claim_one()
        shown = read_jobs.snapshot(Filter()).run(viewer)
        assert [listed.id for listed in shown.page.jobs] == [job.id]
        assert shown.processing.enabled
        assert health().run(viewer).findings
        assert read_jobs.detail(job.id).run(viewer) is not None
        assert len(read_jobs.why(job.id).run(viewer)) >= 8
        history.runs().run(viewer)
        history.worker_runs().run(viewer)
        error_groups.groups(since=DAY).run(viewer)
        reports.cron().run(viewer)
        reports.errors().run(viewer)
        error_groups.alike("alpha", "0").run(viewer)
        reports.worker_report().run(viewer)
        reports.audit(DAY).run(viewer)
        reports.recipients(viewer, job.id)
        assert read_jobs.resolve_id(viewer, str(job.id)) == job.id
        check_schema(viewer)
        told = read_jobs.permissions().run(viewer)
        assert (told.view, told.operate, told.work) == (True, False, False)
        for tab in Status:
            read_jobs.page(Filter(status=tab), sort="updated").run(viewer)

    @pytest.mark.slow
    def test_payloads_outputs_and_logs_are_hidden_from_it_everywhere(
        self, owner: Connection, viewer: Connection
    ) -> None:
        waiting = owner.add("beta", payload=SECRET)
        queue_operator.edit(owner, waiting.id, changes={"payload": SECRET | {"count": 4}}, actor=ACTOR)
        gone = owner.add(payload=SECRET)
        claimed = owner.claim_one()
        owner.finish_one(claimed, output={"sent_to": "ada@example.org"}, log="wrote to ada@example.org")
        again = owner.add("gamma", payload=SECRET)
        running = owner.claim_one(["gamma"])
        leases.save_checkpoint(owner, running.id, running.run_token, {"last": "ada@example.org"})
        owner.finish_one(running, "failed", log="wrote to ada@example.org", permanent=True)
        told = owner.add("delta", payload=SECRET)
        follows = owner.claim_one(["delta"])
        leases.heartbeat(owner, "worker-1", [(told.id, follows.run_token, {"log": ["wrote to ada@example.org"]})], 60)
        deleted = owner.add("epsilon", payload=SECRET)
        queue_operator.delete(owner, [deleted.id], actor=ACTOR)

        seen = read_jobs.job(again.id).run(viewer)
        assert seen is not None
        assert (seen.payload, seen.output, seen.checkpoint) == (REDACTED, None, None)
        for job_id in (waiting.id, gone.id, again.id, told.id, deleted.id):
            assert_names_nobody(read_jobs.detail(job_id).run(viewer))
        assert_names_nobody(history.audit().run(viewer), history.runs().run(viewer))
        (edited,) = history.audit(job_id=waiting.id).run(viewer)
        assert edited.before is not None
        assert edited.after is not None
        assert (edited.before["payload"], edited.after["payload"]) == (REDACTED, REDACTED | {"count": 4})
        for tab in (None, *Status):
            assert_names_nobody(read_jobs.page(Filter(status=tab)).run(viewer))
        assert read_jobs.page(Filter(search="ada@example.org")).run(viewer).jobs == ()
        assert len(read_jobs.page(Filter(search="ada@example.org")).run(owner).jobs) == 3

    @pytest.mark.slow
    def test_payload_output_and_checkpoint_of_a_deleted_job_are_hidden_from_it(
        self, owner: Connection, viewer: Connection
    ) -> None:
        job = owner.add(payload=SECRET, recurrence_interval_minutes=5)
        sent, last = {"sent_to": "ada@example.org"}, {"last": "ada@example.org"}
        owner.finish_one(owner.claim_one(), output=sent, checkpoint=last)
        queue_operator.delete(owner, [job.id], actor=ACTOR)
        for reader, shown in ((owner, (SECRET, sent, last)), (viewer, (REDACTED, None, None))):
            found = read_jobs.detail(job.id).run(reader)
            assert found is not None
            assert found.in_trash
            assert (found.job.payload, found.job.output, found.job.checkpoint) == shown

    @pytest.mark.slow
    def test_the_log_of_a_lost_run_is_hidden_from_it(self, owner: Connection, viewer: Connection) -> None:
        told = owner.add()
        running = owner.claim_one()
        progress = {"done": 3, "log": ["wrote to ada@example.org"]}
        leases.heartbeat(owner, "worker-1", [(told.id, running.run_token, progress)], 60)
        owner.lose()
        (kept,), _ = history.runs(job_id=told.id).run(owner)
        assert (kept.outcome, kept.progress) == (RunOutcome.LOST, progress)
        (seen,), _ = history.runs(job_id=told.id).run(viewer)
        assert seen.progress == {"done": 3}

    @pytest.mark.slow
    @pytest.mark.parametrize("call", [*act_calls(), *enqueue_calls(), *work_calls()])
    def test_it_can_do_nothing(self, owner: Connection, viewer: Connection, call: str) -> None:
        job = owner.add()
        with owner.changes_nothing(), pytest.raises(DENIED):
            (act_calls() | enqueue_calls() | work_calls())[call](viewer, job)

    @pytest.mark.competition
    @pytest.mark.parametrize("table", ["job_queue", "job_runs", "job_trash", "job_audit", "profiles", "competitors"])
    def test_it_cannot_read_the_tables_behind_the_views(self, viewer: Connection, table: str) -> None:
        with pytest.raises(DENIED):
            viewer.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))


class TestOperator:
    @pytest.mark.parametrize("call", [*act_calls(), *enqueue_calls()])
    def test_it_acts_and_enqueues(self, owner: Connection, operator: Connection, call: str) -> None:
        job = owner.add()
        (act_calls() | enqueue_calls())[call](operator, job)

    def test_the_audit_names_the_role_that_signed_in(self, owner: Connection, operator: Connection) -> None:
        queue_operator.cancel(operator, [owner.add().id], actor=ACTOR)
        role = operator.value("SELECT session_user::text")
        assert history.audit().run(operator)[0].actor == f"{ACTOR} ({role})"
        assert role.startswith("test_job_operator")

    @pytest.mark.parametrize("call", [*work_calls()])
    def test_it_does_no_work(self, owner: Connection, operator: Connection, call: str) -> None:
        job = owner.add()
        with pytest.raises(DENIED):
            work_calls()[call](operator, job)

    @pytest.mark.slow
    def test_it_sees_payloads_whole_and_its_permissions(self, owner: Connection, operator: Connection) -> None:
        job = owner.add(payload=SECRET)
        seen = read_jobs.job(job.id).run(operator)
        assert seen is not None
        assert seen.payload == SECRET
        told = read_jobs.permissions().run(operator)
        assert (told.view, told.operate, told.work) == (True, True, False)

    @pytest.mark.competition
    def test_it_reads_of_the_programme_what_previews_and_commands_need_and_writes_none_of_it(
        self, owner: Connection
    ) -> None:
        tables = owner.rows(
            """
            SELECT t AS name, has_table_privilege('job_operator', t::regclass, 'select') AS whole,
                has_any_column_privilege('job_operator', t::regclass, 'insert, update, references')
                    OR has_table_privilege('job_operator', t::regclass, 'delete, truncate, trigger') AS written
            FROM (SELECT job_programme_tables() UNION SELECT outbox_programme_tables() UNION SELECT unnest(
                ARRAY['outbox_messages', 'outbox_left_out', 'send_batches', 'email_suppressions', 'sms_opt_outs',
                    'provider_events', 'provider_rates'])) AS found (t) ORDER BY t
            """,
        )
        assert [table["name"] for table in tables if table["written"]] == []
        assert [table["name"] for table in tables if table["whole"]] == [
            "competitor_announcement_campaigns", "provider_cursors", "provider_rates", "send_batches",
        ]  # fmt: skip

    @pytest.mark.competition
    def test_it_finds_coaches_by_their_words_and_reads_no_address(
        self, owner: Connection, operator: Connection
    ) -> None:
        owner.execute(
            """
            INSERT INTO profiles (id, email, role, full_name, first_name, last_name, school_name)
            VALUES (gen_random_uuid(), 'ada@example.org', 'coach', 'Ada Lane', 'Ada', 'Lane', 'North')
            """
        )
        found = find_coaches(operator, "lane")
        assert [one.label for one in found] == ["Ada Lane"]
        assert "example.org" not in repr(operator.rows("SELECT * FROM programme_find_coaches('', 10)"))
        with pytest.raises(DENIED):
            operator.execute("SELECT email FROM profiles")


class TestWorker:
    @pytest.mark.slow
    @pytest.mark.parametrize("call", [*work_calls(), *enqueue_calls()])
    def test_it_works_and_enqueues(self, owner: Connection, worker: Connection, call: str) -> None:
        job = owner.add()
        (work_calls() | enqueue_calls())[call](worker, job)

    @pytest.mark.slow
    @pytest.mark.parametrize("call", [*act_calls()])
    def test_it_does_not_act(self, owner: Connection, worker: Connection, call: str) -> None:
        job = owner.add()
        with owner.changes_nothing(), pytest.raises(DENIED):
            act_calls()[call](worker, job)

    @pytest.mark.slow
    def test_it_runs_jobs_from_claim_to_finish(self, owner: Connection, worker: Connection) -> None:
        first = owner.add(payload=SECRET, concurrency_key="k")
        second = owner.add("beta", blocked_by=first.id)
        claimed = worker.claim_one()
        assert claimed.payload == SECRET
        assert leases.heartbeat(worker, WORKER, [(claimed.id, claimed.run_token, {"n": 1})], 60)[0].alive
        assert worker.finish_one(claimed).recorded is RunOutcome.SUCCEEDED
        claimed = worker.claim_one(["beta"])
        assert claimed.id == second.id
        assert worker.finish_one(claimed, "failed", permanent=True).status is Status.FAILED
        worker.reap()
        run_id = presence.open_worker_run(worker, source="worker", worker_id="w")
        presence.close_worker_run(worker, run_id, status="ok", claimed=2, succeeded=1, failed=1, released=0)
        assert history.worker_runs().run(worker)[0].succeeded == 1
        told = read_jobs.permissions().run(worker)
        assert (told.view, told.operate, told.work) == (True, False, True)

    @pytest.mark.slow
    @pytest.mark.competition
    def test_it_writes_the_programmes_tables(self, owner: Connection, worker: Connection) -> None:
        tables = owner.execute("SELECT job_programme_tables()").fetchall()
        assert tables
        for (table,) in tables:
            for right in ("select", "insert", "update", "delete"):
                assert worker.value("SELECT has_table_privilege(%s, %s)", f"public.{table}", right), table


class TestNobody:
    def test_who_is_in_no_group_reads_and_does_nothing(
        self, owner: Connection, people: People, database_url: str
    ) -> None:
        job = owner.add()
        with people.sign_in(database_url, None) as nobody:
            for call in (act_calls() | enqueue_calls() | work_calls()).values():
                with pytest.raises(DENIED):
                    call(nobody, job)
            for statement in ("SELECT * FROM job_list", "SELECT * FROM job_queue", "SELECT * FROM job_queue_settings"):
                with pytest.raises(DENIED):
                    nobody.execute(statement)


NOWHERE = {
    "function that PUBLIC may execute": """
        SELECT p.oid::regprocedure::text AS function FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
            AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee = 0))
    """,
    "table on which PUBLIC has a right": """
        SELECT c.relname FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.relnamespace = 'public'::regnamespace AND a.grantee = 0
    """,
    # An expression that the planner puts in place of its call can carry no setting, and needs none: its body is
    # kept parsed, with each name bound to what it meant when the function was made.
    "function without a search path that was not bound when it was made": """
        SELECT p.oid::regprocedure::text AS function FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace AND p.prosqlbody IS NULL
            AND NOT coalesce(array_to_string(p.proconfig, ';') ~ 'search_path=[^;]*public', false)
            AND p.proname <> 'job_queue_after_write' -- calls only what is built in
    """,
    "function with its owner's rights and without a search path": """
        SELECT p.oid::regprocedure::text AS function FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef
            AND NOT coalesce(array_to_string(p.proconfig, ';') ~ 'search_path=public, pg_temp', false)
    """,
}
"""What the catalog does not hold, by a statement that finds it."""


class TestCatalog:
    @pytest.mark.parametrize("what", NOWHERE)
    def test_there_is_no(self, owner: Connection, what: str) -> None:
        assert owner.rows(NOWHERE[what]) == []

    def test_the_groups_write_no_table_of_the_queue(self, owner: Connection) -> None:
        found = owner.rows(
            """
            SELECT g.name, c.relname FROM unnest(%s::text[]) AS g (name), pg_class AS c
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
                AND (c.relname ~ '^job' OR g.name = 'job_viewer')
                AND has_table_privilege(g.name, c.oid, 'insert, update, delete, truncate, references, trigger')
            """,
            list(GROUPS),
        )
        assert found == []

    @pytest.mark.slow
    def test_the_groups_use_the_schema_where_the_public_may_not(
        self, conn: Connection, people: People, database_url: str
    ) -> None:
        conn.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
        install_schema(conn, roles=True)
        for group in GROUPS:
            with people.sign_in(database_url, group) as account:
                assert account.value("SELECT count(*) FROM job_list") == 0

    def test_the_groups_use_no_sequence_of_the_queue_and_make_nothing(self, owner: Connection) -> None:
        for group in GROUPS:
            assert not owner.value("SELECT has_sequence_privilege(%s, 'job_run_token_seq', 'usage, update')", group)
            assert not owner.value("SELECT has_schema_privilege(%s, 'public', 'create')", group)
            assert not owner.value("SELECT rolcanlogin OR rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = %s",
                             group)  # fmt: skip

    @pytest.mark.slow
    def test_a_table_put_in_the_way_is_not_taken_for_the_queues(self, owner: Connection) -> None:
        job = owner.add()
        owner.execute("CREATE TEMP TABLE job_queue (LIKE public.job_queue INCLUDING ALL)")
        owner.execute("CREATE TEMP TABLE job_queue_settings (LIKE public.job_queue_settings INCLUDING ALL)")
        assert owner.claim_one().id == job.id
        owner.execute("DROP TABLE pg_temp.job_queue, pg_temp.job_queue_settings")
        assert owner.job_row(job.id)["status"] == "running"

    @pytest.mark.slow
    def test_making_the_roles_again_changes_nothing(self, owner: Connection) -> None:
        install_schema(owner, roles=True)
        first = catalog(owner)
        install_schema(owner, roles=True)
        assert catalog(owner) == first


@pytest.mark.slow
def test_over_the_originals_tables_the_groups_see_what_row_security_would_hide(postgres: PostgresServer) -> None:
    name = original_database(postgres)
    url = postgres.url(name)
    with its_owner(postgres, name) as owner:
        install_schema(owner)
        # The owner may create no roles, so an administrator does.
        with postgres.connect(name) as admin:
            admin.execute("SELECT job_make_roles()")
        install_schema(owner)
        ends.switch(owner, back=False, actor=ACTOR, reason=None)
        people = People(postgres)
        try:
            for group in GROUPS:
                with people.sign_in(url, group) as conn:
                    assert read_jobs.processing().run(conn).enabled
                    assert len(history.worker_runs().run(conn)) == 2
                    assert read_jobs.counts().run(conn) == read_jobs.counts().run(owner)
            with people.sign_in(url, "job_worker") as conn:
                assert len(conn.claim(["due"])) == 1
            with people.sign_in(url, "job_viewer") as conn, pytest.raises(DENIED):
                conn.execute("SELECT * FROM job_queue")
        finally:
            people.remove()
