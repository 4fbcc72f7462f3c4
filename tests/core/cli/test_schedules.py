"""Schedules in commands: enqueue, edit, job, series and doctor."""

from __future__ import annotations

from itertools import islice

import pytest

from jobdeck.core.postgres import inspection
from jobdeck.core.read import jobs
from jobdeck.core.schedules import Cron
from tests.core.cli.support import Jobdeck
from tests.support.queue import Connection

WEEKDAYS = ("--cron", "0 9 * * 1-5", "--tz", "America/New_York")


@pytest.mark.slow
def test_a_dry_run_shows_the_next_runs_in_a_zone_and_the_job_is_due_at_the_first(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    with conn.changes_nothing():
        rehearsed = jobdeck("enqueue", "cli_echo", *WEEKDAYS, "--dry-run", "--json").data
        now = jobs.clock().run(conn)
        expected = [f"{slot:%Y-%m-%dT%H:%M:%SZ}" for slot in islice(Cron(*WEEKDAYS[1::2]).after(now), 5)]
        assert rehearsed["next_runs"] == expected
    text = jobdeck("enqueue", "cli_echo", *WEEKDAYS, "--dry-run").out
    assert f"Next runs\n  {expected[0].replace('T', ' ')}" in text
    made = jobdeck("enqueue", "cli_echo", *WEEKDAYS, "--json").data
    assert made["run_at"] == expected[0]
    assert made["schedule"] == {"cron": "0 9 * * 1-5", "zone": "America/New_York"}
    shown = jobdeck("job", made["id"]).out
    assert "0 9 * * 1-5 America/New_York" in shown
    assert expected[1].replace("T", " ") in shown
    assert "↻ cron" in jobdeck("jobs").out
    assert "0 9 * * 1-5 America/New_York" in jobdeck("series").out
    (row,) = jobdeck("series", "--json").data["series"]
    assert (row["interval_minutes"], row["schedule"]) == (None, made["schedule"])


@pytest.mark.slow
def test_seconds_and_what_missed_slots_are_worth(jobdeck: Jobdeck) -> None:
    made = jobdeck("enqueue", "cli_echo", "--every", "30s", "--catch-up", "all", "--json").data
    assert made["schedule"] == {"seconds": 30, "catch_up": "all"}
    assert "every 30s, makes up all missed slots" in jobdeck("job", made["id"]).out
    assert "30s" in jobdeck("series").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cron", "0 0 30 2 *"], ['"0 0 30 2 *" never comes', "Change its day or month"]),
        (["--cron", "0 9 * * 9"], ["cannot be read: its day of week is wrong"]),
        (["--cron", "soon"], ["does not have five fields, or six with seconds"]),
        (["--cron", "0 9 * * *", "--tz", "America/Newyork"], ['did you mean "America/New_York"?']),
        (["--cron", "0 9 * * *", "--every", "1h"], ["either an interval or a cron expression"]),
        (["--tz", "UTC"], ["--tz is the time zone of a cron expression"]),
        (["--every", "1h", "--tz", "UTC"], ["--tz is the time zone of a cron expression"]),
        (["--catch-up", "all"], ["--catch-up is for recurring jobs"]),
        (["--every", "0.5s"], ["is not a whole number of seconds"]),
        (["--every", "0s"], ["is zero"]),
        (["--every", ""], ["is not a duration"]),
        (["--cron", ""], ["does not have five fields"]),
        (["--cron", "0 9 * * *", "--tz", ""], ["There is no time zone"]),
        (["--cron", "70 0 9 * * *"], ["its second is wrong"]),
    ],
)
def test_a_bad_schedule_is_one_sentence_and_changes_nothing(
    jobdeck: Jobdeck, conn: Connection, options: list[str], words: list[str]
) -> None:
    made = jobdeck("enqueue", "cli_echo", "--json").data["id"]
    with conn.changes_nothing():
        jobdeck("enqueue", "cli_echo", *options).refused(2, *words)
        jobdeck("edit", made, *options).refused(2, *words)


@pytest.mark.slow
def test_an_edit_changes_the_zone_or_the_catch_up_alone(jobdeck: Jobdeck) -> None:
    made = jobdeck("enqueue", "cli_echo", *WEEKDAYS, "--json").data["id"]
    for options, schedule in (
        (["--catch-up", "none"], {"cron": "0 9 * * 1-5", "zone": "America/New_York", "catch_up": "none"}),
        (["--tz", "Asia/Tokyo"], {"cron": "0 9 * * 1-5", "zone": "Asia/Tokyo", "catch_up": "none"}),
        (["--cron", "@hourly"], {"cron": "@hourly", "zone": "UTC", "catch_up": "none"}),
        (["--priority", "3"], {"cron": "@hourly", "zone": "UTC", "catch_up": "none"}),
        (["--every", "20s", "--catch-up", "one"], {"seconds": 20}),
        (["--every", "off"], None),
    ):
        assert jobdeck("edit", made, *options).code == 0
        assert jobdeck("job", made, "--json").data["schedule"] == schedule


@pytest.mark.slow
def test_the_doctor_compares_the_zones_of_series_with_those_of_the_database(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finding() -> tuple[str, str] | None:
        found = jobdeck("doctor", "--json").data["findings"]
        return next(((one["verdict"], one["evidence"]) for one in found if one["signal"] == "time zones"), None)

    assert finding() is None
    jobdeck("enqueue", "cli_echo", *WEEKDAYS)
    assert finding() == ("ok", "The database and Python have the same rules for the zones of series.")
    # As if one of the two had other rules: the offsets are those of another zone.
    monkeypatch.setattr(
        inspection, "_CLOCKS", inspection._CLOCKS.replace("AT TIME ZONE z)", "AT TIME ZONE 'Europe/Paris')")
    )
    verdict, evidence = finding() or ("", "")
    assert verdict == "warning"
    assert evidence.startswith("America/New_York differs. Series run by the rules of Python (tzdata)")


@pytest.mark.slow
def test_the_doctor_names_a_zone_that_only_one_of_the_two_knows(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("""
        SELECT job_series_create('cli_echo', '{}', '{"cron": "0 9 * * *", "zone": "Mars/Olympus"}', NULL, NULL, 3, 0,
            NULL, NULL, NULL, NULL, 'app')
        """)
    (found,) = [one for one in jobdeck("doctor", "--json").data["findings"] if one["signal"] == "time zones"]
    assert found["evidence"].startswith("Python does not know Mars/Olympus; the database does not know Mars/Olympus.")
