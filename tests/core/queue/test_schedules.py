"""Series by cron expressions and seconds: their slots, what they make up, and those that handlers declare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest

from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.model import Job, NewJob, Verdict
from jobdeck.core.queue import operator, producer, requests, service
from jobdeck.core.queue.producers import series
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.queue.requests import Wanted
from jobdeck.core.read import jobs
from jobdeck.core.read.pages import series as pages
from jobdeck.core.read.verdict.health import health
from jobdeck.core.registry import Done, JobType, NoArguments, Payload, Registry, registrations
from jobdeck.core.schedules import AHEAD, CATCH_UPS, NO_SLOT, CatchUp, Cron, Every, Schedule, next_runs
from jobdeck.core.settings import Settings
from tests.support.people import PRODUCER, People
from tests.support.queue import ACTOR, Connection

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
HOURLY = Cron("0 * * * *")


@dataclass
class World:
    """A queue whose time is another than the database's: slots are found at its time, and stored at the database's."""

    conn: Connection
    ahead: timedelta

    def now(self) -> datetime:
        return self.conn.now() + self.ahead

    def set(self, moment: datetime) -> None:
        """Lets time pass until a moment."""
        gone = moment - self.now()
        self.conn.advance(gone)
        self.ahead += gone

    def add(self, schedule: Schedule, **facts: Any) -> Job:
        made = requests.scheduled(NewJob("alpha", **facts), schedule, self.now())
        slots = made.slots and tuple(slot - self.ahead for slot in made.slots)
        return self.conn.add(**made._replace(slots=slots)._asdict())

    def run_at(self, job_id: UUID) -> datetime:
        moment: datetime = self.conn.job_row(job_id)["run_at"]
        return moment + self.ahead

    def run(self, *, refill_first: bool = True) -> list[datetime]:
        """Runs what is due until nothing is, and returns the slots that were served.

        Slots are written before each claim, or only once nothing is due any more.
        """
        served: list[datetime] = []
        for _ in range(1000):
            filled = refill_first and series.refill(self.conn).series
            claimed = self.conn.claim()
            if not claimed and (filled or not series.refill(self.conn).series):
                return served
            for one in claimed:
                served.append(one.due_at + self.ahead)
                self.conn.finish_one(one)
        raise AssertionError("The series runs on and on.")


@pytest.fixture
def world(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(conn, timedelta())

    class Shifted:
        def __init__(self, expression: str, tz: str) -> None:
            self._cron = Cron(expression, tz)

        def slots(self, after: datetime, *, now: datetime) -> list[datetime]:
            there = self._cron.slots(after + made.ahead, now=now + made.ahead)
            return [slot - made.ahead for slot in there]

    monkeypatch.setattr(series, "Cron", Shifted)
    return made


def cron(conn: Connection, schedule: Schedule = HOURLY, **facts: Any) -> Job:
    return conn.add(**requests.scheduled(NewJob("alpha", **facts), schedule, conn.now())._asdict())


def codes(conn: Connection, job_id: UUID) -> dict[str, str]:
    found = conn.rows("SELECT clause, code FROM job_queue_why(%s)", job_id)
    return {row["clause"]: row["code"] for row in found}


def use_up(conn: Connection, job_id: UUID) -> None:
    """Leaves a series no slot after the one that it waits for, which is due."""
    conn.execute(
        "UPDATE job_queue SET slots = array[run_at - interval '1 day'], "
        "run_at = clock_timestamp() - interval '1 second' WHERE id = %s", [job_id]
    )  # fmt: skip


def test_a_cron_series_is_due_at_its_slots_one_after_the_other(conn: Connection) -> None:
    made = cron(conn)
    slots = list(islice(HOURLY.after(conn.now()), AHEAD))
    row = conn.job_row(made.id)
    assert (row["run_at"], row["slots"]) == (slots[0], slots)
    assert (row["is_recurring"], row["recurrence_interval_minutes"]) == (True, None)
    assert row["schedule"] == {"cron": "0 * * * *", "zone": "UTC"}
    assert conn.claim() == []
    conn.execute("UPDATE job_queue SET run_at = clock_timestamp() WHERE id = %s", [made.id])
    assert conn.finish_one(conn.claim_one()).run_at == slots[0]


def test_a_failed_run_is_retried_before_the_next_slot_and_a_lost_one_too(conn: Connection) -> None:
    made = cron(conn, max_attempts=2)
    first = conn.job_row(made.id)["run_at"]
    conn.execute("UPDATE job_queue SET run_at = clock_timestamp() - interval '1 second' WHERE id = %s", [made.id])
    conn.finish_one(conn.claim_one(), "failed", error="boom", retry_after=1.0)
    assert conn.job_row(made.id)["run_at"] < first
    conn.advance(2 * timedelta(seconds=1))
    conn.claim_one()
    conn.lose()
    row = conn.job_row(made.id)
    assert (row["status"], row["consecutive_failures"]) == ("pending", 1)
    assert row["run_at"] in row["slots"]


def test_a_series_of_seconds_keeps_its_grid(conn: Connection) -> None:
    made = cron(conn, Every(seconds=45), run_at=conn.now() - timedelta(seconds=100))
    begin = made.run_at
    row = conn.finish_one(conn.claim_one())
    assert row.run_at == begin + timedelta(seconds=135)
    assert conn.job_row(made.id)["schedule"] == {"seconds": 45}


def test_a_series_whose_slots_run_out_waits_is_shown_and_is_filled_by_the_next_worker(conn: Connection) -> None:
    made = cron(conn)
    use_up(conn, made.id)
    assert conn.finish_one(conn.claim_one()).run_at == NO_SLOT
    assert conn.claim() == []
    assert codes(conn, made.id)["due"] == "no-slots"
    assert not [one for one in health().run(conn).findings if one.signal == "slots"]
    conn.advance(2 * MINUTE)
    (finding,) = [one for one in health().run(conn).findings if one.signal == "slots"]
    assert (finding.verdict, finding.evidence[:55]) == (
        Verdict.WARNING, "1 recurring job has no next slot, such as alpha: no wor",
    )  # fmt: skip
    (line,) = pages.series().run(conn).series
    assert (line.job.run_at, line.late) == (NO_SLOT, None)
    version = conn.job_row(made.id)["version"]
    assert series.refill(conn).series == 1
    row = conn.job_row(made.id)
    assert row["run_at"] == row["slots"][0]
    assert row["run_at"] < conn.now() + HOUR
    assert row["version"] > version
    assert len([slot for slot in row["slots"] if slot > conn.now()]) == AHEAD


def test_slots_are_written_before_they_are_used_up_and_no_more_is_changed(conn: Connection) -> None:
    made = cron(conn)
    assert series.refill(conn).series == 0
    conn.advance(11 * HOUR)
    before = conn.job_row(made.id)
    assert series.refill(conn).series == 1
    after = conn.job_row(made.id)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"slots"}
    assert len([slot for slot in after["slots"] if slot > conn.now()]) == AHEAD


def test_a_running_series_gets_slots_too(conn: Connection) -> None:
    made = cron(conn)
    use_up(conn, made.id)
    claimed = conn.claim_one()
    assert series.refill(conn).series == 1
    assert conn.finish_one(claimed).run_at != NO_SLOT


@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_a_slot_that_is_served_while_slots_are_looked_for_is_not_served_again(
    conn: Connection, catch_up: CatchUp
) -> None:
    made = cron(conn, Cron("0 * * * *", catch_up=catch_up))
    use_up(conn, made.id)
    claimed = conn.claim_one()
    (found,) = conn.rows("SELECT * FROM job_series_short(true, 10)")
    assert found["after"] <= claimed.due_at
    assert conn.finish_one(claimed).run_at == NO_SLOT
    later = claimed.due_at + HOUR
    filled = "SELECT job_series_fill(%s, %s, %s, %s, %s, NULL)"
    conn.rows(filled, made.id, found["cron"], found["zone"], found["after"], [claimed.due_at, later])
    assert conn.job_row(made.id)["run_at"] == later


def test_a_locked_series_is_left_to_the_next_call(conn: Connection, database_url: str) -> None:
    made = cron(conn)
    use_up(conn, made.id)
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", [made.id])
        assert series.refill(conn).series == 0
    assert series.refill(conn).series == 1


def test_sql_enqueues_a_cron_series_without_slots_and_a_worker_writes_them(conn: Connection) -> None:
    made = conn.value("""
        SELECT job_id FROM job_series_create('alpha', '{}', '{"cron": "30 9 * * *", "zone": "Europe/Paris"}', NULL,
            NULL, 3, 0, NULL, NULL, NULL, NULL, 'app')
        """)  # fmt: skip
    assert conn.job_row(made)["run_at"] == NO_SLOT
    assert series.refill(conn) == series.Refilled(1, ())
    first, second = islice(Cron("30 9 * * *", "Europe/Paris").after(conn.now()), 2)
    assert conn.job_row(made)["run_at"] == first
    operator.retry(conn, [made], actor=ACTOR)
    assert conn.finish_one(conn.claim_one()).run_at in {first, second}
    (shown,) = pages.series().run(conn).series
    assert second in next_runs(shown.job, 3)


def test_an_expression_that_cannot_be_read_is_said_once_in_a_sentence(conn: Connection) -> None:
    made = conn.value("""
        SELECT job_id FROM job_series_create('alpha', '{}', '{"cron": "0 0 30 2 *", "zone": "UTC"}', NULL,
            NULL, 3, 0, NULL, NULL, NULL, NULL, 'app')
        """)  # fmt: skip
    words = 'The cron expression "0 0 30 2 *" never comes: no year has such a day. Change its day or month.'
    assert series.refill(conn) == series.Refilled(0, (f"Job {made}: {words}",))
    assert conn.job_row(made)["last_error"] == words
    assert series.refill(conn) == series.Refilled(0, ())
    assert conn.claim() == []


def test_slots_at_the_end_of_the_calendar_do_no_harm_to_other_series(conn: Connection) -> None:
    made = cron(conn)
    use_up(conn, made.id)
    conn.execute("""
        SELECT job_series_create('alpha', '{}', '{"cron": "0 0 29 2 *", "zone": "Europe/Paris", "catch_up": "all"}',
            '{9998-12-30}', NULL, 3, 0, NULL, NULL, NULL, NULL, 'app')
        """)
    done = series.refill(conn, everything=True)
    assert done.series == 1
    assert "leads beyond the year 9998" in done.troubles[0]


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ('{"cron": "* * * * *"}', "A schedule has either seconds, or a cron expression with its zone"),
        ('{"zone": "UTC"}', "A schedule has either seconds"),
        ('{"cron": "* * * * *", "zone": "UTC", "seconds": 60}', "A schedule has either seconds"),
        ('{"seconds": "soon"}', "A schedule has either seconds"),
        ('{"seconds": 1.5}', "A schedule has either seconds"),
        ('{"seconds": 0}', "must be between 1 second and 100 years"),
        ('{"seconds": 60, "catch_up": "some"}', "its catch_up is one, all or none"),
        ("{}", "A schedule has either seconds"),
        ("[]", "A schedule has either seconds"),
        ("null", "A schedule has either seconds"),
    ],
)
def test_a_schedule_that_is_none_is_refused_by_the_database(conn: Connection, schedule: str, words: str) -> None:
    call = "SELECT job_series_create('alpha', '{}', %s, NULL, NULL, 3, 0, NULL, NULL, NULL, NULL, 'app')"
    with conn.changes_nothing(), pytest.raises(psycopg.Error) as caught:
        conn.execute(call, [schedule])
    assert (caught.value.sqlstate, words in str(caught.value)) == ("JD001", True)


@pytest.mark.parametrize(
    ("schedule", "slots", "minutes"),
    [
        ('{"cron": "* * * * *", "zone": "UTC"}', None, None),
        ('{"seconds": 5}', None, 5),
        (None, "{}", 5),
        ("{}", None, None),
    ],
)
def test_a_schedule_written_by_hand_is_refused_in_a_sentence(
    conn: Connection, schedule: str | None, slots: str | None, minutes: int | None
) -> None:
    statement = """
        INSERT INTO job_queue (task_type, is_recurring, schedule, slots, recurrence_interval_minutes)
        VALUES ('alpha', true, %s, %s, %s)
        """
    with conn.changes_nothing(), pytest.raises(psycopg.Error) as caught:
        conn.execute(statement, [schedule, slots, minutes])
    assert caught.value.sqlstate == "JD001"


def test_a_second_series_with_the_same_schedule_is_refused_unless_it_has_a_key(conn: Connection) -> None:
    paris = Cron("0 9 * * *", "Europe/Paris")
    cron(conn, paris)
    with pytest.raises(Refused, match="is a series of alpha with the same payload and schedule"):
        cron(conn, paris)
    cron(conn, paris, dedupe_key="second")
    cron(conn, Cron("0 9 * * *", "Europe/Rome"))


@pytest.mark.parametrize(
    ("catch_up", "served"),
    [("one", ["03-07 09:00"]), ("none", []), ("all", ["03-07 09:00", "03-07 21:00", "03-08 09:00", "03-08 21:00"])],
)
def test_a_worker_that_was_down_for_two_days_makes_up_what_the_series_asks_for(
    world: World, catch_up: Any, served: list[str]
) -> None:
    """In New York, whose clock is set forward in these days."""
    world.set(datetime(2026, 3, 7, 12, tzinfo=UTC))
    made = world.add(Cron("0 9,21 * * *", "America/New_York", catch_up))
    world.set(datetime(2026, 3, 9, 4, tzinfo=UTC))
    there = [slot.astimezone(ZoneInfo("America/New_York")) for slot in world.run()]
    assert [f"{slot:%m-%d %H:%M}" for slot in there] == served
    assert world.run_at(made.id) == datetime(2026, 3, 9, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "begin", "days"),
    [
        ("30 2 * * *", "America/New_York", "2026-03-06", 4),
        ("30 1 * * *", "America/New_York", "2026-10-30", 4),
        ("0 */6 * * *", "Australia/Lord_Howe", "2026-04-03", 3),
        ("0 0 28,29 2 *", "UTC", "2027-02-20", 800),
        ("0 9 * * 1-5", "Europe/London", "2026-03-26", 40),
        ("*/30 0-3 * * *", "America/New_York", "2026-10-31", 2),
        ("*/30 0-3 * * *", "America/New_York", "2026-03-07", 2),
    ],
)
def test_each_slot_is_served_once_through_clock_changes_and_leap_days(
    world: World, expression: str, zone: str, begin: str, days: int
) -> None:
    start = datetime.fromisoformat(begin).replace(tzinfo=UTC)
    world.set(start)
    made = world.add(Cron(expression, zone))
    served = []
    while world.run_at(made.id) < start + days * DAY:
        world.set(world.run_at(made.id) + timedelta(seconds=1))
        served += world.run()
    wanted = [slot for slot in islice(Cron(expression, zone).after(start), 200) if slot < start + days * DAY]
    assert served == wanted
    assert len(wanted) > 2


@pytest.mark.slow
def test_a_series_that_makes_up_all_slots_gets_more_of_them_than_the_database_holds(world: World) -> None:
    made = world.add(Cron("*/30 * * * *", catch_up="all"))
    first = world.run_at(made.id)
    world.set(first + 3 * DAY + MINUTE)
    served = world.run()
    assert served == [first + number * 30 * MINUTE for number in range(3 * 48 + 1)]


@pytest.mark.parametrize("refill_first", [True, False])
@pytest.mark.parametrize(("catch_up", "runs"), [("one", 1), ("none", 0), ("all", 145)])
def test_a_series_whose_slots_have_all_passed_in_a_day_without_a_worker_goes_on(
    world: World, catch_up: Any, runs: int, refill_first: bool
) -> None:
    made = world.add(Cron("*/10 * * * *", catch_up=catch_up))
    first = world.run_at(made.id)
    world.set(first + DAY + 5 * MINUTE)
    assert world.run(refill_first=refill_first) == [first + number * 10 * MINUTE for number in range(runs)]
    assert world.run_at(made.id) == first + DAY + 10 * MINUTE
    world.set(first + DAY + 10 * MINUTE)
    assert world.run(refill_first=refill_first) == [first + DAY + 10 * MINUTE]


@pytest.mark.parametrize(
    ("catch_up", "served"), [("one", [11, 15, 16, 17]), ("none", [15, 16, 17]), ("all", [11, 12, 13, 14, 15, 16, 17])]
)
def test_a_clock_that_steps_forward_and_back_serves_no_slot_twice(
    world: World, catch_up: Any, served: list[int]
) -> None:
    day = datetime(2027, 1, 4, tzinfo=UTC)
    world.set(day + 10.5 * HOUR)
    made = world.add(Cron("0 * * * *", catch_up=catch_up))
    world.set(day + 14.5 * HOUR)
    found = world.run()
    world.set(day + 10.5 * HOUR)
    while world.now() < day + 17.5 * HOUR:
        found += world.run()
        world.set(world.now() + HOUR / 2)
    assert [(slot - day) / HOUR for slot in found] == served
    assert world.run_at(made.id) == day + 18 * HOUR


def test_a_series_that_makes_up_nothing_takes_a_slot_of_the_last_minute(world: World) -> None:
    made = world.add(Cron("0 * * * *", catch_up="none"))
    first = world.run_at(made.id)
    world.set(first + 3 * HOUR + timedelta(seconds=30))
    assert world.run() == [first + 3 * HOUR]
    world.set(world.run_at(made.id) + 2 * MINUTE)
    assert world.run() == []


def test_an_interval_makes_up_nothing_or_all_as_well(conn: Connection) -> None:
    none, every = Every(minutes=30, catch_up="none"), Every(minutes=30, catch_up="all")
    passed = cron(conn, none, run_at=conn.now() + MINUTE, payload={"series": "none"})
    all_of_it = cron(conn, every, run_at=conn.now() + MINUTE, payload={"series": "all"})
    conn.advance(70 * MINUTE)
    served = []
    while claimed := conn.claim():
        served += [(one.id, one.due_at) for one in claimed]
        for one in claimed:
            conn.finish_one(one)
    begin = conn.job_row(all_of_it.id)["anchor_at"]
    assert served == [(all_of_it.id, begin), (all_of_it.id, begin + 30 * MINUTE), (all_of_it.id, begin + 60 * MINUTE)]
    assert conn.job_row(passed.id)["run_at"] == conn.job_row(passed.id)["anchor_at"] + 90 * MINUTE


def test_a_run_that_was_asked_for_or_handed_back_is_no_missed_slot(conn: Connection) -> None:
    made = cron(conn, Cron("0 0 1 1 *", catch_up="none"))
    operator.retry(conn, [made.id], actor=ACTOR)
    conn.advance(10 * MINUTE)
    conn.finish_one(conn.claim_one(), "released")
    conn.advance(10 * MINUTE)
    conn.finish_one(conn.claim_one())
    assert conn.job_row(made.id)["run_at"] > conn.now()
    assert [run["outcome"] for run in conn.run_rows(made.id)] == ["released", "succeeded"]


def test_a_slot_that_is_made_up_is_retried_and_put_off_before_the_next(conn: Connection) -> None:
    made = cron(conn, Every(minutes=30, catch_up="all"), run_at=conn.now() + MINUTE, max_attempts=3)
    conn.advance(70 * MINUTE)
    begin = conn.job_row(made.id)["run_at"]
    conn.finish_one(conn.claim_one(), "failed", error="boom", retry_after=60.0)
    assert conn.claim() == []
    conn.advance(2 * MINUTE)
    claimed = conn.claim_one()
    assert (claimed.attempt, claimed.due_at) == (2, begin - 2 * MINUTE)
    conn.finish_one(claimed, "snoozed", delay=60.0)
    assert conn.claim() == []
    conn.advance(2 * MINUTE)
    conn.finish_one(conn.claim_one())
    assert conn.claim_one().due_at == begin + 26 * MINUTE


@pytest.mark.slow
def test_slots_that_are_written_before_a_retry_go_on_after_the_slot_that_it_serves(world: World) -> None:
    made = world.add(Cron("*/10 * * * *", catch_up="all"), max_attempts=3)
    first = world.run_at(made.id)
    world.set(first + DAY + 5 * MINUTE)
    world.conn.finish_one(world.conn.claim_one(), "failed", error="boom", retry_after=60.0)
    series.refill(world.conn)
    world.set(world.now() + 2 * MINUTE)
    assert world.run() == [first + number * 10 * MINUTE for number in range(145)]


def test_a_run_asked_for_in_between_leaves_the_slots_that_are_made_up(conn: Connection) -> None:
    made = cron(conn, Every(minutes=30, catch_up="all"), run_at=conn.now() + MINUTE)
    conn.advance(70 * MINUTE)
    begin = conn.job_row(made.id)["run_at"]
    operator.retry(conn, [made.id], actor=ACTOR)
    dues = [conn.claim_one()]
    conn.finish_one(dues[0])
    dues.append(conn.claim_one())
    assert [one.due_at for one in dues] == [begin, begin + 30 * MINUTE]


def test_one_slot_is_skipped_and_a_paused_series_resumes_at_its_next_slot(conn: Connection) -> None:
    made = cron(conn)
    slots = made.slots or []
    assert operator.skip(conn, made.id, actor=ACTOR).ok
    assert conn.job_row(made.id)["run_at"] == slots[1]
    assert operator.pause_series(conn, made.id, actor=ACTOR).ok
    conn.advance(4 * HOUR)
    assert conn.claim() == []
    assert operator.resume_series(conn, made.id, actor=ACTOR).ok
    row = conn.job_row(made.id)
    assert row["run_at"] == next(slot for slot in row["slots"] if slot > conn.now())


def test_a_slot_that_nobody_has_written_cannot_be_skipped(conn: Connection) -> None:
    made = cron(conn)
    conn.execute("UPDATE job_queue SET slots = slots[1:1] WHERE id = %s", [made.id])
    answer = operator.skip(conn, made.id, actor=ACTOR)
    assert (answer.ok, answer.code) == (False, "skip-without-slots")


def test_a_series_with_an_end_that_runs_out_of_slots_has_not_ended(conn: Connection) -> None:
    made = cron(conn, expires_at=conn.now() + 5 * DAY)
    use_up(conn, made.id)
    assert conn.finish_one(conn.claim_one()).status == "pending"
    series.refill(conn)
    assert conn.job_row(made.id)["run_at"] < conn.now() + HOUR


def test_a_clock_that_is_set_back_serves_no_slot_twice(conn: Connection) -> None:
    made = cron(conn)
    slots = made.slots or []
    # The run began at its slot, and the clock was set back since.
    conn.execute("UPDATE job_queue SET run_at = clock_timestamp() - interval '1 second' WHERE id = %s", [made.id])
    claimed = conn.claim_one()
    conn.execute("UPDATE job_queue SET run_at = slots[1] WHERE id = %s", [made.id])
    assert conn.finish_one(claimed).run_at == slots[1]


def test_a_zone_whose_rules_change_moves_the_next_slot(conn: Connection) -> None:
    made = cron(conn)
    conn.execute(
        "UPDATE job_queue SET run_at = run_at + interval '7 minutes', "
        "slots = ARRAY(SELECT s + interval '7 minutes' FROM unnest(slots) AS s) WHERE id = %s", [made.id]
    )  # fmt: skip
    assert series.refill(conn, everything=True).series == 1
    assert conn.job_row(made.id)["run_at"] == next(HOURLY.after(conn.now()))


def test_slots_that_are_written_again_leave_a_series_that_begins_later(conn: Connection) -> None:
    made = cron(conn, run_at=conn.now() + 90 * DAY)
    for everything in (True, False):
        series.refill(conn, everything=everything)
        assert conn.job_row(made.id)["run_at"] == made.run_at


class Region(Payload):
    region: str = "eu"


@pytest.fixture
def kept() -> Iterator[None]:
    """Takes back what a test registers."""
    before, of_before = list(registrations), list(series._declared)
    yield
    registrations[:], series._declared[:] = before, of_before


def handler(*wanted: tuple[Schedule, dict[str, Any] | None, str | None], name: str = "alpha") -> JobType:
    def run(params: Region, ctx: object) -> Done:
        del params, ctx
        return Done()

    job(name, payload=Region, max_attempts=3)(run)
    for one, payload, called in wanted:
        series.schedule(one, payload, name=called)(run)
    return registrations[-1].job_type


def install(conn: Connection, *types: JobType) -> list[str]:
    return series.install(conn, types, actor="worker-1")


def active(conn: Connection) -> list[dict[str, Any]]:
    found = conn.rows("SELECT * FROM job_queue WHERE status = 'pending' ORDER BY dedupe_key")
    return [
        {**row["schedule"], "payload": row["payload"], "minutes": row["recurrence_interval_minutes"]} for row in found
    ]


@pytest.mark.usefixtures("kept")
def test_declared_series_are_installed_changed_and_removed_with_the_code(conn: Connection) -> None:
    by_hand = cron(conn)
    first = handler((Cron("0 9 * * *", "Europe/Paris"), None, None), (Every(hours=1), {"region": "us"}, "us"))
    assert install(conn, first) == []
    paris = {"cron": "0 9 * * *", "zone": "Europe/Paris", "name": "alpha"}
    assert active(conn)[:2] == [
        {**paris, "payload": {}, "minutes": None},
        {"name": "alpha:us", "payload": {"region": "us"}, "minutes": 60},
    ]
    with conn.changes_nothing():
        assert install(conn, first) == []
    changed = handler((Cron("0 10 * * *", "Europe/Paris", "all"), {"region": "fr"}, None))
    assert install(conn, changed) == []
    assert [one for one in active(conn) if "name" in one] == [
        {**paris, "cron": "0 10 * * *", "catch_up": "all", "payload": {"region": "fr"}, "minutes": None},
    ]  # fmt: skip
    row = conn.rows("SELECT * FROM job_queue WHERE dedupe_key = 'schedule:alpha'")[0]
    assert row["run_at"] == next(Cron("0 10 * * *", "Europe/Paris").after(conn.now()))
    gone = conn.rows("SELECT * FROM job_queue WHERE dedupe_key = 'schedule:alpha:us'")[0]
    assert (gone["status"], gone["last_error"]) == ("cancelled", "The code that runs now does not declare this series.")
    assert [row["action"] for row in conn.audit_rows()][-2:] == ["edit", "cancel"]
    assert conn.is_queued(by_hand.id)
    assert conn.job_row(by_hand.id)["status"] == "pending"


@pytest.mark.usefixtures("kept")
def test_a_program_that_does_not_know_the_type_leaves_its_series_alone(conn: Connection) -> None:
    install(conn, handler((HOURLY, None, None)))
    with conn.changes_nothing():
        assert install(conn, handler(name="beta")) == []


@pytest.mark.usefixtures("kept")
def test_a_declared_series_that_runs_is_changed_and_removed_after_its_run(conn: Connection) -> None:
    install(conn, handler((Every(seconds=30), None, None)))
    claimed = conn.claim_one()
    changed = handler((Every(seconds=45), {"region": "fr"}, None))
    with conn.changes_nothing():
        assert install(conn, changed) == ["alpha"]
        assert install(conn, handler()) == ["alpha"]
    conn.finish_one(claimed)
    assert install(conn, changed) == []
    assert active(conn) == [{"name": "alpha", "seconds": 45, "payload": {"region": "fr"}, "minutes": None}]
    assert install(conn, handler()) == []
    assert active(conn) == []


@pytest.mark.usefixtures("kept")
def test_a_paused_declared_series_stays_paused_and_an_edited_one_is_set_back(conn: Connection) -> None:
    known = handler((Every(minutes=30), None, None))
    install(conn, known)
    (row,) = conn.rows("SELECT id FROM job_queue")
    operator.pause_series(conn, row["id"], actor=ACTOR)
    found = jobs.job(row["id"]).run(conn)
    assert found is not None
    wanted = Wanted("alpha", {"region": "us"}, schedule=Every(seconds=5))
    service.edit(conn, Registry([known]), found, wanted, settings=Settings(), actor=ACTOR)
    assert active(conn) == [{"name": "alpha", "seconds": 5, "payload": {"region": "us"}, "minutes": None}]
    assert install(conn, known) == []
    assert active(conn) == [{"name": "alpha", "payload": {}, "minutes": 30}]
    assert conn.job_row(row["id"])["blocked_by"] == row["id"]


@pytest.mark.usefixtures("kept")
def test_a_key_that_another_job_has_is_left(conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type, dedupe_key) VALUES ('alpha', 'schedule:alpha')")
    with conn.changes_nothing():
        assert install(conn, handler((HOURLY, None, None))) == ["alpha"]


BY_A_PRODUCER = {
    "one job": "job_queue_create('beta', '{}', '9000-01-01', 5, 0, 'schedule:alpha', null, null, null, null, 'x')",
    "many jobs": "job_queue_create_many(array['beta'], null, null, null, null, array['schedule:alpha'], null, 'x')",
    "once": "job_queue_create_with('{\"unique_for\": 60}', 'beta', '{}', "
    "null, 5, 0, 'schedule:alpha', null, null, null, null, 'x')",
    "by minutes": "job_queue_create('beta', '{}', null, 5, 0, 'schedule:alpha', null, null, 60, null, 'x')",
    "a series": "job_series_create('alpha', '{}', '{\"seconds\": 60}', "
    "null, null, 5, 0, 'schedule:alpha', null, null, null, 'x')",
    "a name": "job_series_create('alpha', '{}', '{\"seconds\": 60, \"name\": \"alpha\"}', "
    "null, null, 5, 0, null, null, null, null, 'x')",
    "a flow": 'job_flow_create(\'f\', \'[{"name": "a", "task_type": "beta", "dedupe_key": "schedule:alpha"}]\', \'x\')',
}


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("how", BY_A_PRODUCER)
def test_a_producer_cannot_take_the_key_or_the_name_of_a_declared_series(
    conn: Connection, people: People, database_url: str, how: str
) -> None:
    with people.sign_in(database_url, PRODUCER) as producer_, conn.changes_nothing():
        with pytest.raises(psycopg.Error, match=r"a series that a program declares") as refusal:
            producer_.execute(f"SELECT {BY_A_PRODUCER[how]}".encode())
        assert refusal.value.sqlstate == "JD001"
    assert install(conn, handler((HOURLY, None, None))) == []


@pytest.mark.usefixtures("kept")
def test_a_copy_of_a_job_that_had_the_key_of_a_declared_series_leaves_it_the_key(conn: Connection) -> None:
    known = handler((HOURLY, None, None))
    conn.execute("INSERT INTO job_queue (task_type, dedupe_key) VALUES ('alpha', 'schedule:alpha')")
    one = conn.claim_one()
    conn.finish_one(one)
    assert operator.run_again(conn, one.id, actor=ACTOR).ok
    assert install(conn, known) == []


@pytest.mark.usefixtures("kept")
def test_a_bad_declaration_is_an_error_of_the_module(conn: Connection) -> None:
    del conn
    with pytest.raises(ConfigurationError, match="which is no handler yet"):
        series.schedule(HOURLY)(lambda: None)
    with pytest.raises(ConfigurationError, match=r"The schedule alpha has a payload that does not fit: .*region"):
        handler((HOURLY, {"region": 5}, None))
    with pytest.raises(ConfigurationError, match=r'Two schedules of alpha have the same name. Add name="..."'):
        handler((HOURLY, None, None), (Every(days=1), None, None))


def test_an_edit_turns_an_interval_into_a_cron_series_and_back(conn: Connection) -> None:
    made = conn.add(recurrence_interval_minutes=30)
    known = Registry([JobType("alpha", lambda _params, _ctx: None, "Alpha", "", NoArguments)])

    def edited(wanted: Wanted) -> dict[str, Any]:
        found = jobs.job(made.id).run(conn)
        assert found is not None
        assert service.edit(conn, known, found, wanted, settings=Settings(), actor=ACTOR).ok
        return conn.job_row(made.id)

    row = edited(Wanted("alpha", {}, schedule=HOURLY))
    assert (row["run_at"], row["recurrence_interval_minutes"]) == (next(HOURLY.after(conn.now())), None)
    assert len(row["slots"]) == AHEAD
    slots = row["slots"]
    row = edited(Wanted("alpha", {}, schedule=Cron("0 * * * *", catch_up="none")))
    assert (row["slots"], row["schedule"]["catch_up"]) == (slots, "none")
    row = edited(Wanted("alpha", {}, schedule=Every(seconds=50)))
    assert (row["slots"], row["schedule"], row["anchor_at"]) == (None, {"seconds": 50}, row["run_at"])
    row = edited(Wanted("alpha", {}, schedule=None))
    assert (row["is_recurring"], row["schedule"], row["slots"]) == (False, None, None)


@pytest.mark.parametrize("schedule", [HOURLY, Every(seconds=45), Every(minutes=5, catch_up="all"), Every(minutes=5)])
def test_the_maximum_age_of_its_type_does_not_end_a_series(conn: Connection, schedule: Schedule) -> None:
    conn.execute("INSERT INTO job_types (task_type, max_age_seconds) VALUES ('alpha', 60)")
    assert conn.job_row(cron(conn, schedule).id)["expires_at"] is None
    until = conn.now() + 5 * DAY
    assert conn.job_row(cron(conn, schedule, expires_at=until, dedupe_key="ends").id)["expires_at"] == until
    assert conn.add(payload={"once": True}).expires_at is not None


def test_an_edit_keeps_the_maximum_age_of_a_job_until_it_becomes_a_series(conn: Connection) -> None:
    conn.execute("INSERT INTO job_types (task_type, max_age_seconds) VALUES ('alpha', 3600)")
    made = conn.add(max_attempts=3)
    known = Registry([JobType("alpha", lambda _params, _ctx: None, "Alpha", "", NoArguments)])

    def expiry(wanted: Wanted) -> Any:
        found = jobs.job(made.id).run(conn)
        assert found is not None
        assert service.edit(conn, known, found, wanted, settings=Settings(), actor=ACTOR).ok
        return conn.job_row(made.id)["expires_at"]

    assert expiry(Wanted("alpha", {}, priority=3)) == made.expires_at
    assert made.expires_at is not None
    assert expiry(Wanted("alpha", {}, schedule=HOURLY)) is None


def test_a_series_with_a_schedule_that_is_to_be_unique_for_a_time_is_refused(conn: Connection) -> None:
    new = requests.scheduled(NewJob("alpha", dedupe_key="nightly", unique_seconds=60.0), HOURLY, conn.now())
    with conn.changes_nothing(), pytest.raises(Refused, match="A recurring job cannot be unique for a time"):
        producer.enqueue(conn, new, actor=ACTOR)


def test_a_bulk_takes_no_schedules(conn: Connection) -> None:
    new = requests.scheduled(NewJob("alpha"), HOURLY, conn.now())
    with pytest.raises(Refused, match="cannot recur"):
        producer.enqueue_many(conn, [new], actor=ACTOR)
