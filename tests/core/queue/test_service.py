"""A job as it was asked for: made definite, rehearsed, written as a command that does the same, changed by an edit."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdeck.core import registry
from jobdeck.core.errors import InvalidPayload, PermanentError, Refused, UnknownTaskType
from jobdeck.core.model import Filter, FinishedRun, Job, NewJob, RunOutcome, Status
from jobdeck.core.plugins import presets as presets_of_plugins
from jobdeck.core.postgres.database import Database
from jobdeck.core.programme.people import find_campaigns, find_coaches
from jobdeck.core.queue import leases, producer, service
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.queue.requests import Wanted, changes, edit_twin, enqueue_twin, new_job
from jobdeck.core.read import jobs
from jobdeck.core.registry import JobContext, JobType, Payload, Registry
from jobdeck.core.schedules import CATCH_UPS, Cron, Every
from jobdeck.core.settings import Settings
from jobdeck.core.worker.runs.preview import effects
from tests.core.cli.handlers import Echo
from tests.core.cli.support import Jobdeck, everything
from tests.support.people import PRODUCER, People
from tests.support.queue import Connection

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)
pytestmark = pytest.mark.competition
SETTINGS = Settings()
TYPES = Registry([
    JobType("cli_echo", lambda _params, _ctx: None, "Echo", "", Echo, max_attempts=3, concurrency="payload:coachId"),
])  # fmt: skip


def job(**facts: Any) -> Job:
    given: dict[str, Any] = {
        "task_type": "cli_echo", "payload": {"message": "x"}, "status": Status.PENDING, "run_at": NOW, "attempts": 0,
        "max_attempts": 3, "created_at": NOW, "updated_at": NOW, "version": 1, **facts,
    }  # fmt: skip
    return Job(id=UUID(int=7), **given)


def test_what_was_asked_for_becomes_a_job_with_its_types_attempts_and_concurrency_key() -> None:
    wanted = Wanted(
        "cli_echo",
        {"message": "hi", "coachId": "c-1"},
        schedule=Every(minutes=15),
        lasting=timedelta(days=1),
        priority=2,
    )
    made = new_job(TYPES, wanted, NOW)
    assert made == NewJob(
        "cli_echo", {"message": "hi", "coachId": "c-1"}, max_attempts=3, priority=2, concurrency_key="cli_echo:c-1",
        recurrence_interval_minutes=15, expires_at=NOW + timedelta(days=1),
    )  # fmt: skip
    later = new_job(TYPES, replace(wanted, at=NOW + timedelta(hours=2)), NOW)
    assert later.expires_at == NOW + timedelta(days=1, hours=2)
    assert new_job(TYPES, replace(wanted, schedule=None), NOW).expires_at is None


def test_an_unknown_type_and_a_payload_that_does_not_fit_are_refused() -> None:
    with pytest.raises(UnknownTaskType):
        new_job(TYPES, Wanted("nothing", {}), NOW)
    with pytest.raises(InvalidPayload) as refused:
        new_job(TYPES, Wanted("cli_echo", {"times": 99}), NOW)
    assert set(refused.value.problems) == {"times"}


def test_a_payload_that_is_no_object_is_refused_in_plain_words() -> None:
    with pytest.raises(InvalidPayload) as refused:
        TYPES.validate("cli_echo", cast("Any", "text"))
    assert str(refused.value) == ("The payload does not fit cli_echo: payload: must be a JSON object, such as {}.")


def test_another_payload_brings_the_concurrency_key_that_follows_from_it() -> None:
    same = Wanted("cli_echo", {"message": "x"}, max_attempts=3)
    assert changes(TYPES, job(), same, NOW) == {}
    moved = replace(same, payload={"message": "x", "coachId": "c-2"})
    assert changes(TYPES, job(), moved, NOW) == {"payload": moved.payload, "concurrency_key": "cli_echo:c-2"}


WORDS = st.text(max_size=12) | st.sampled_from(["it's", "$(x)", "a b", '"', "é漢"])
TIMES = st.datetimes(datetime(2026, 8, 2), datetime(2030, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC))  # noqa: DTZ001 -- bounds of naive times
SCHEDULES = st.builds(Every, seconds=st.integers(1, 100_000), catch_up=st.sampled_from(CATCH_UPS)) | st.builds(
    Cron, st.just("0 9 * * 1-5"), st.sampled_from(("UTC", "America/New_York")), st.sampled_from(CATCH_UPS)
)


@settings(deadline=None)
@given(
    st.builds(
        Wanted,
        task_type=st.just("cli_echo"),
        payload=st.fixed_dictionaries({}, optional={"message": WORDS, "times": st.integers(1, 10)}),
        at=st.none() | TIMES,
        schedule=st.none() | SCHEDULES,
        lasting=st.none() | st.integers(1, 10_000).map(lambda minutes: timedelta(minutes=minutes)),
        priority=st.integers(-100, 100),
        max_attempts=st.none() | st.integers(1, 1000),
        dedupe_key=st.none() | st.text(min_size=1, max_size=10),
        unique_for=st.none() | st.integers(1, 10_000).map(lambda minutes: timedelta(minutes=minutes)),
    )
)
def test_a_command_is_words_of_a_shell_whatever_is_in_it(wanted: Wanted) -> None:
    words = shlex.split(enqueue_twin(wanted))
    assert words[:3] == ["jobdeck", "enqueue", "cli_echo"]
    assert ("--for" in words) == (wanted.schedule is not None and wanted.lasting is not None)


def rows(conn: Connection) -> list[Any]:
    """The jobs without what differs between two that were asked for alike."""
    return conn.execute(
        """
        SELECT task_type, payload, status, max_attempts, priority, dedupe_key, concurrency_key,
            recurrence_interval_minutes, schedule, cardinality(slots), expires_at - run_at,
            abs(extract(epoch FROM run_at - created_at)) < 60
        FROM job_queue ORDER BY id
        """
    ).fetchall()


WANTED = [
    Wanted("cli_echo", {}),
    Wanted("cli_echo", {"message": 'it\'s $HOME "x"', "times": 3}, priority=-5, max_attempts=7),
    Wanted("cli_echo", {"dryRun": True}, at=datetime(2031, 1, 1, 9, tzinfo=UTC), dedupe_key="nightly one"),
    Wanted("cli_echo", {}, schedule=Every(minutes=90), lasting=timedelta(days=7)),
    Wanted("cli_echo", {}, at=datetime(2031, 1, 1, 9, tzinfo=UTC), schedule=Every(minutes=1440)),
    Wanted("cli_echo", {}, schedule=Every(seconds=45, catch_up="all")),
    Wanted("cli_echo", {}, schedule=Cron("0 9 * * 1-5", "America/New_York", "none")),
    Wanted("cli_echo", {}, at=datetime(2031, 1, 1, 9, tzinfo=UTC), schedule=Cron("@daily")),
]


@pytest.mark.parametrize("wanted", WANTED, ids=range(len(WANTED)))
def test_the_command_twin_enqueues_the_same(jobdeck: Jobdeck, conn: Connection, wanted: Wanted) -> None:
    known = registry.load(["tests.core.cli.handlers"])
    service.create(conn, known, wanted, settings=SETTINGS, actor="test")
    (expected,) = rows(conn)
    conn.execute("DELETE FROM job_queue")
    ran = jobdeck(*shlex.split(enqueue_twin(wanted))[1:])
    assert ran.code == 0, ran.err
    assert rows(conn) == [expected]


EDITS = [
    Wanted("cli_echo", {"message": "y z"}, schedule=Every(minutes=15), max_attempts=3),
    Wanted("cli_echo", {"message": "x"}, max_attempts=3),
    Wanted("cli_echo", {"message": "x"}, schedule=Every(minutes=30), endless=True, priority=4, max_attempts=9),
    Wanted("cli_echo", {"message": "x"}, schedule=Every(minutes=15), at=datetime(2031, 1, 1, 9, tzinfo=UTC),
           lasting=timedelta(days=2), max_attempts=3),
    Wanted("cli_echo", {"message": "x"}, schedule=Every(minutes=15, catch_up="none"), max_attempts=3),
    Wanted("cli_echo", {"message": "x"}, schedule=Every(seconds=40), max_attempts=3),
    Wanted("cli_echo", {"message": "x"}, schedule=Every(minutes=15), timeout=timedelta(seconds=1.25)),
    Wanted("cli_echo", {"message": "x"}, schedule=Every(minutes=15), priority=1),
    Wanted("cli_echo", {"message": "x"}, schedule=Cron("0 9 * * *", "Europe/Paris", "all"), max_attempts=3),
    Wanted("cli_echo", {"message": "x"}, schedule=Cron("0 9 * * *"), at=datetime(2031, 1, 1, 9, tzinfo=UTC),
           max_attempts=3),
]  # fmt: skip


@pytest.mark.parametrize("wanted", EDITS, ids=range(len(EDITS)))
def test_the_command_twin_of_an_edit_makes_the_same_changes(jobdeck: Jobdeck, conn: Connection, wanted: Wanted) -> None:
    known = registry.load(["tests.core.cli.handlers"])

    def series() -> Job:
        conn.execute("DELETE FROM job_queue")
        new = NewJob("cli_echo", {"message": "x"}, max_attempts=3, recurrence_interval_minutes=15,
                     expires_at=datetime(2030, 1, 1, tzinfo=UTC), timeout=90.0)  # fmt: skip
        return service.enqueue(conn, new, actor="test").job

    first = series()
    made = changes(known, first, wanted, first.run_at)
    assert made
    assert service.edit(conn, known, first, wanted, settings=SETTINGS, actor="test").ok
    expected = rows(conn)
    second = series()
    ran = jobdeck(*shlex.split(edit_twin(second, wanted, changes(known, second, wanted, second.run_at)))[1:])
    assert ran.code == 0, ran.err
    assert rows(conn)[0][:-2] == expected[0][:-2]


def test_an_edit_is_refused_when_the_job_has_changed_meanwhile(conn: Connection) -> None:
    seen = service.enqueue(conn, NewJob("cli_echo", {"message": "x"}), actor="test").job
    queue_operator.edit(conn, seen.id, changes={"priority": 9}, actor="somebody else")
    answer = service.edit(conn, TYPES, seen, Wanted("cli_echo", {"message": "y"}), settings=SETTINGS, actor="test")
    assert not answer.ok
    assert answer.message.startswith("It was edited by somebody else (jobdeck) at ")


def test_a_rehearsal_answers_and_changes_nothing(conn: Connection) -> None:
    held = service.enqueue(conn, NewJob("cli_echo", {}, dedupe_key="k"), actor="test").job
    with conn.changes_nothing():
        assert service.rehearse(conn, TYPES, Wanted("cli_echo", {}), None, settings=SETTINGS, actor="test").ok
        there = service.rehearse(
            conn, TYPES, Wanted("cli_echo", {}, dedupe_key="k"), None, settings=SETTINGS, actor="test"
        )
        assert not there.ok
        assert str(held.id) in there.message
        assert service.rehearse(
            conn, TYPES, Wanted("cli_echo", {"message": "y"}), held, settings=SETTINGS, actor="test"
        ).ok
        with pytest.raises(InvalidPayload):
            service.rehearse(conn, TYPES, Wanted("cli_echo", {"times": 99}), None, settings=SETTINGS, actor="test")


def test_run_again_answers_in_the_order_asked(conn: Connection) -> None:
    left = service.enqueue(conn, NewJob("cli_echo", {}), actor="test").job
    (claimed,) = leases.claim(conn, "a worker", ["cli_echo"], 1, 60)
    run = FinishedRun(claimed.id, claimed.run_token, RunOutcome.SUCCEEDED, 0, 0)
    leases.finish(conn, "a worker", [run], retry_base=1, retry_cap=1)
    waiting = service.enqueue(conn, NewJob("cli_echo", {"message": "x"}), actor="test").job
    ids, before = [left.id, UUID(int=7), waiting.id, left.id], everything(conn)
    for dry_run in (True, False):
        answers = service.run_again(conn, TYPES, ids, settings=SETTINGS, actor="test", dry_run=dry_run)
        assert [(answer.job_id, answer.ok) for answer in answers] == [
            (left.id, True),
            (ids[1], False),
            (waiting.id, False),
        ]
        assert (everything(conn) == before) is dry_run
    copies = [job for job in jobs.page(Filter()).run(conn).jobs if job.id != waiting.id]
    assert [(job.payload, job.max_attempts) for job in copies] == [({}, 3)]


def test_full_sync_is_two_jobs_the_second_blocked_by_the_first_and_a_second_press_doubles_nothing(
    conn: Connection,
) -> None:
    known = registry.load()
    first, second = service.enqueue_preset(conn, known, presets_of_plugins()["full"], actor="test")
    assert second.job.blocked_by == first.job.id
    again = service.enqueue_preset(conn, known, presets_of_plugins()["full"], actor="test")
    assert [one.created for one in again] == [False, False]
    assert [one.job.id for one in again] == [first.job.id, second.job.id]
    assert len(jobs.find_ids(conn, Filter())) == 2


@pytest.mark.parametrize(
    ("task_type", "hours", "words"),
    [("zz_other", 0, "(zz_other, enqueued by shop"), ("game_platform_sync", 9000, "(game_platform_sync, due at 20")],
)  # fmt: skip
def test_a_quick_sync_whose_key_another_job_has_is_refused_with_the_job(
    conn: Connection, task_type: str, hours: int, words: str
) -> None:
    at = datetime.now(UTC) + timedelta(hours=hours)
    new = NewJob(task_type, {}, run_at=at, dedupe_key="quick-sync:game_platform_sync")
    holder = service.enqueue(conn, new, actor="shop").job
    with pytest.raises(Refused) as refusal:
        service.enqueue_preset(conn, registry.load(), presets_of_plugins()["full"], actor="test")
    assert f"Job {holder.id} {words}" in str(refusal.value)
    assert f"jobdeck job {holder.id}" in str(refusal.value)
    assert jobs.find_ids(conn, Filter()) == [holder.id]


@pytest.mark.slow
def test_a_role_that_only_enqueues_takes_no_key_of_a_quick_sync(
    conn: Connection, people: People, database_url: str
) -> None:
    new = NewJob("game_platform_sync", {}, dedupe_key="quick-sync:game_platform_sync")
    with (
        people.sign_in(database_url, PRODUCER) as shop,
        conn.changes_nothing(),
        pytest.raises(Refused, match='begins with "quick-sync:" belongs to Quick Sync'),
    ):
        producer.enqueue(shop, new, actor="shop")


def test_a_quick_sync_that_waits_for_its_retry_is_already_there(conn: Connection) -> None:
    known = registry.load()
    (first,) = service.enqueue_preset(conn, known, presets_of_plugins()["incremental"], actor="test")
    conn.finish_one(conn.claim_one([first.job.task_type]), "failed", error="zz", retry_after=86_400.0)
    (again,) = service.enqueue_preset(conn, known, presets_of_plugins()["incremental"], actor="test")
    assert (again.created, again.job.id, again.job.status) == (False, first.job.id, Status.PENDING)


def test_a_quick_sync_that_cannot_be_had_queues_nothing(conn: Connection) -> None:
    with pytest.raises(UnknownTaskType):
        service.enqueue_preset(conn, TYPES, presets_of_plugins()["full"], actor="test")
    assert jobs.find_ids(conn, Filter()) == []


class Writing(Payload):
    """No arguments."""


def test_a_preview_cannot_write(database_url: str, conn: Connection) -> None:
    def preview(_params: Writing, ctx: JobContext) -> dict[str, Any]:
        assert ctx.dry_run
        assert ctx.checkpoint is None
        ctx.db.execute("UPDATE job_queue_settings SET paused_reason = 'written by a preview'")
        return {}

    known = JobType("writes", lambda _params, _ctx: None, "Writes", "", Writing, preview=preview)
    with Database(database_url, application_name="test") as database:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            effects(known, {}, settings=Settings(), database=database)
        with database.connection() as borrowed:
            borrowed.execute("UPDATE job_queue_settings SET paused_reason = NULL")
        assert effects(replace(known, preview=None), {}, settings=Settings(), database=database) is None


@pytest.mark.competition
def test_every_registered_type_has_a_preview_that_reads_and_writes_nothing(database_url: str, conn: Connection) -> None:
    campaign = "0b7f2f7e-1f0c-4f5c-9a34-2f3e0f3f5a11"
    conn.execute(
        """
        INSERT INTO competitor_announcement_campaigns (id, subject, body_markdown, body_html)
        VALUES (%s, 'Finals', 'Come', '<p>Come</p>')
        """,
        (campaign,),
    )
    with conn.changes_nothing(), Database(database_url, application_name="test") as database:
        for known in registry.load():
            payload = {"campaignId": campaign} if known.task_type == "competitor_announcement_dispatch" else {}
            found = effects(known, payload, settings=Settings(), database=database)
            assert found, known.task_type
        dispatch = registry.load().require("competitor_announcement_dispatch")
        with pytest.raises(PermanentError, match="no campaign"):
            effects(dispatch, {"campaignId": campaign.replace("0b7f", "ffff")}, settings=Settings(), database=database)


@pytest.mark.competition
def test_the_commands_dry_run_tells_the_effects(jobdeck: Jobdeck, conn: Connection) -> None:
    with conn.changes_nothing():
        told = jobdeck("enqueue", "game_platform_sync", "--dry-run", "--json").data
        assert told["effects"]["competitors"]["total"] == 0
        assert "A run would" in jobdeck("enqueue", "game_platform_sync", "--dry-run").out


def test_an_edit_from_the_command_line_makes_a_series_run_once_or_for_ever(jobdeck: Jobdeck, conn: Connection) -> None:
    new = NewJob("cli_echo", {}, recurrence_interval_minutes=15, expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    series = service.enqueue(conn, new, actor="test").job
    assert jobdeck("edit", str(series.id), "--for", "forever").code == 0
    assert conn.execute("SELECT expires_at FROM job_queue").fetchone() == (None,)
    assert jobdeck("edit", str(series.id), "--every", "off").code == 0
    assert conn.execute("SELECT is_recurring, recurrence_interval_minutes FROM job_queue").fetchone() == (False, None)


@pytest.mark.competition
def test_an_operator_who_does_no_work_creates_edits_rehearses_and_looks_people_up(
    conn: Connection, operator: Connection
) -> None:
    people(conn)
    known = registry.load()
    made = service.create(
        operator, known, Wanted("game_platform_sync", {}, schedule=Every(minutes=15)), settings=SETTINGS, actor="test"
    ).job
    assert service.edit(
        operator, known, made, Wanted("game_platform_sync", {"batchSize": 5}), settings=SETTINGS, actor="test"
    ).ok
    assert service.rehearse(operator, known, Wanted("game_platform_sync", {}), None, settings=SETTINGS, actor="test").ok
    assert len(service.enqueue_preset(operator, known, presets_of_plugins()["full"], actor="test")) == 2
    assert [one.label for one in find_coaches(operator, "")] == ["Amara Kim", "Bo Lind"]
    assert find_campaigns(operator, "") == []


def test_times_of_commands_need_no_right_to_work(
    jobdeck: Jobdeck, operator: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = operator.info
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}")
    made = jobdeck("enqueue", "cli_echo", "--at", "in 2h", "--json")
    assert made.code == 0, made.err
    assert jobdeck("edit", made.data["id"], "--at", "in 3h").code == 0
    assert jobdeck("pause", "--reason", "x", "--for", "30m").code == 0


def people(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO profiles (id, email, role, full_name, first_name, last_name, school_name, game_platform_user_id)
        VALUES ('00000000-0000-0000-0000-000000000001', 'amara@example.org', 'coach', 'Amara Kim', 'Amara', 'Kim',
                'North High', 'u1'),
            ('00000000-0000-0000-0000-000000000002', 'bo@example.org', 'coach', 'Bo Lind', 'Bo', 'Lind', 'East', NULL),
            ('00000000-0000-0000-0000-000000000003', 'root@example.org', 'admin', 'Kim Admin', 'Kim', 'A', 'Home', NULL)
        """
    )
    conn.execute(
        """
        INSERT INTO competitors (coach_id, first_name, last_name)
        VALUES ('00000000-0000-0000-0000-000000000001', 'Ada', 'L'),
            ('00000000-0000-0000-0000-000000000001', 'Grace', 'H')
        """
    )


@pytest.mark.competition
@pytest.mark.parametrize(
    ("text", "names"),
    [("", ["Amara Kim", "Bo Lind"]), ("kim", ["Amara Kim"]), ("EAST", ["Bo Lind"]), ("bo@example", []),
     ("000000000002", ["Bo Lind"]), ("%", []), ("x' OR 1=1", [])],
)  # fmt: skip
def test_coaches_are_found_by_any_part_of_their_words_and_nobody_else_is(
    conn: Connection, text: str, names: list[str]
) -> None:
    people(conn)
    found = find_coaches(conn, text)
    assert [one.label for one in found] == names
    if text == "":
        assert [one.detail for one in found] == [
            "North High, 2 competitors",
            "East, 0 competitors, not on the platform",
        ]
        assert "example.org" not in repr(found)


@pytest.mark.competition
def test_campaigns_are_found_by_their_subject_newest_first(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html, created_at)
        VALUES ('Finals', 'x', 'x', now() - interval '1 hour'), ('Qualifiers', 'x', 'x', now())
        """
    )
    assert [one.label for one in find_campaigns(conn, "")] == ["Qualifiers", "Finals"]
    (found,) = find_campaigns(conn, "final")
    assert found.detail == "pending, 60m ago, 0 of 0 left to mail"
