"""`retention` and `erase` at the command line: what they say, what they refuse, and who may."""

from __future__ import annotations

import io
import json
from uuid import uuid4

import pytest

from jobdeck.core.plugins import use_plugins
from tests.core.cli.support import Jobdeck
from tests.core.programme.erasure_world import KEY, Child, Coach
from tests.support.dump import dumped, places
from tests.support.people import People
from tests.support.queue import Connection

PAYLOAD = {"customerId": 5, "name": "Quokka Zzyx"}


@pytest.fixture
def child(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> Child:
    monkeypatch.setenv("JOBDECK_ERASURE_KEY", KEY)
    made = Child(conn, Coach(conn).id)
    made.put_everywhere()
    return made


class TestRetention:
    def test_the_periods_of_the_queue_and_of_the_plugins_are_listed(self, jobdeck: Jobdeck) -> None:
        found = {line["name"]: line["days"] for line in jobdeck("retention", "--json").data["retention"]}
        assert found["job_runs"] == 30
        assert found["provider_events"] == 90
        assert "job_audit payloads" in jobdeck("retention").out

    def test_the_owner_sets_a_period_and_resets_it(self, jobdeck: Jobdeck, conn: Connection) -> None:
        assert jobdeck("retention", "job_runs", "--days", "60").out == "Rows of job_runs are kept for 60 days.\n"
        assert conn.value("SELECT days FROM job_retention WHERE name = 'job_runs'") == 60
        assert jobdeck("retention", "job_runs", "--default").out == "Rows of job_runs are kept for 30 days.\n"
        assert conn.value("SELECT count(*) FROM job_audit WHERE action = 'set retention'") == 2

    def test_a_dry_run_changes_nothing(self, jobdeck: Jobdeck, conn: Connection) -> None:
        with conn.changes_nothing():
            said = jobdeck("retention", "job_runs", "--days", "60", "--dry-run").out
            assert said == "Rows of job_runs would be kept for 60 days.\n"

    @pytest.mark.parametrize(
        ("arguments", "code", "word"),
        [
            (["job_runs"], 2, "--days"), (["--days", "5"], 2, "NAME"), (["job_runs", "--days", "0"], 2, "--days"),
            (["job_runs", "--days", "5", "--default"], 2, "--default"), (["nothing", "--days", "5"], 1, "nothing"),
        ],
    )  # fmt: skip
    def test_bad_input_is_one_sentence(
        self, jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, word: str
    ) -> None:
        with conn.changes_nothing():
            jobdeck("retention", *arguments).refused(code, word)


class TestErase:
    @pytest.mark.slow
    def test_without_yes_the_places_are_listed_and_nothing_is_changed(self, jobdeck: Jobdeck, conn: Connection) -> None:
        conn.add(payload=PAYLOAD)
        with conn.changes_nothing():
            looked = jobdeck("erase", "--payload-key", "customerId=5")
            assert "1 row would be erased in job_queue.\n" in looked.out
            assert "Nothing was changed." in looked.err
            listed = jobdeck("erase", "--payload-key", "customerId=5", "--dry-run", "--json").data
            assert listed["dry_run"] is True
            assert {"place": "job_queue", "rows": 1} in listed["erased"]

    @pytest.mark.slow
    def test_contents_of_jobs_are_erased_without_any_plugin(self, jobdeck: Jobdeck, conn: Connection) -> None:
        conn.add(payload=PAYLOAD)
        with use_plugins():
            assert "1 row erased in job_queue.\n" in jobdeck("erase", "--payload-key", "customerId=5", "--yes").out
        assert places(dumped(conn), ["Quokka Zzyx"]) == {}

    @pytest.mark.slow
    def test_a_person_is_erased(self, jobdeck: Jobdeck, conn: Connection, child: Child) -> None:
        assert jobdeck("erase", "--person", f"competitor={child.id}", "--yes").code == 0
        assert places(dumped(conn), child.texts) == {}

    @pytest.mark.slow
    def test_a_dash_reads_the_value_so_that_no_history_has_it(
        self, jobdeck: Jobdeck, conn: Connection, child: Child, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{child.email}\n"))
        assert jobdeck("erase", "--person", "email=-", "--yes").code == 0
        assert places(dumped(conn), child.texts) == {}

    @pytest.mark.slow
    def test_what_is_said_names_nobody(self, jobdeck: Jobdeck, child: Child) -> None:
        ran = jobdeck("erase", "--person", f"email={child.email}", "--yes")
        assert [text for text in child.texts if text.lower() in (ran.out + ran.err).lower()] == []

    @pytest.mark.parametrize(
        ("arguments", "code", "word"),
        [
            ([], 2, "--person"),
            (["--payload-key", "a=b", "--person", "email=c"], 2, "not both"),
            (["--payload-key", "customerId"], 2, "customerId=5"),
            (["--payload-key", "=5"], 2, "customerId=5"),
            (["--person", "customer=5"], 2, "competitor (the id of a competitor)"),
            (["--person", "competitor=5"], 2, "is not a UUID"),
            (["--person", f"competitor={uuid4()}"], 1, "Nobody was found"),
            (["--person", "email=zznobody@zz.example"], 1, "Nobody was found"),
            (["--payload-key", "customerId=6"], 1, "No job has this key"),
        ],
    )
    @pytest.mark.parametrize("confirmed", [[], ["--yes"]])
    @pytest.mark.usefixtures("child")
    def test_bad_input_is_one_sentence_and_changes_nothing(
        self, jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, word: str, confirmed: list[str]
    ) -> None:
        with conn.changes_nothing():
            jobdeck("erase", *arguments, *confirmed).refused(code, word)

    @pytest.mark.slow
    def test_without_the_key_a_person_is_not_erased_and_contents_of_jobs_are(
        self, jobdeck: Jobdeck, conn: Connection, child: Child, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("JOBDECK_ERASURE_KEY")
        jobdeck("erase", "--person", f"competitor={child.id}", "--yes").refused(1, "JOBDECK_ERASURE_KEY is not set")
        conn.add(payload=PAYLOAD)
        assert jobdeck("erase", "--payload-key", "customerId=5", "--yes").code == 0

    def test_without_plugins_there_are_no_people(self, jobdeck: Jobdeck) -> None:
        with use_plugins():
            jobdeck("erase", "--person", "email=x@zz.example").refused(2, "none, because no plugin has people")

    def test_a_running_job_is_named_with_the_command_that_cancels_it(self, jobdeck: Jobdeck, conn: Connection) -> None:
        conn.add(payload=PAYLOAD)
        running = conn.claim_one()
        jobdeck("erase", "--payload-key", "customerId=5", "--yes").refused(1, f"jobdeck cancel {running.id}")

    @pytest.mark.slow
    def test_what_remains_is_listed_and_the_exit_code_is_3(self, jobdeck: Jobdeck, conn: Connection) -> None:
        conn.add(payload={"mail": "zzpat@zz.example"})
        series = conn.add(payload={"to": "zzpat@zz.example"}, recurrence_interval_minutes=5)
        asked = ["erase", "--payload-key", "mail=zzpat@zz.example"]
        for confirmed, verb in ([], "would be left"), (["--yes"], "left"):
            ran = jobdeck(*asked, *confirmed)
            assert ran.code == 3
            assert f"1 row {verb} in job_queue (series {series.id}).\n" in ran.out
            assert "The search afterwards found some of it." in ran.err
            assert "zzpat" not in ran.out + ran.err
        conn.add(payload={"mail": "zzpat@zz.example"})
        answer = json.loads(jobdeck(*asked, "--yes", "--json").out)
        assert answer["left"] == [{"place": f"job_queue (series {series.id})", "rows": 1}]

    @pytest.mark.slow
    @pytest.mark.parametrize("person", [False, True])
    def test_with_wait_it_erases_after_the_end_of_the_job_that_runs(
        self, jobdeck: Jobdeck, conn: Connection, child: Child, monkeypatch: pytest.MonkeyPatch, person: bool
    ) -> None:
        conn.add(payload={"competitorId": str(child.id)})
        running = conn.claim_one()
        monkeypatch.setattr("jobdeck.core.cli.commands.run.processing.time.sleep", lambda _: conn.finish_one(running))
        asked = ["--person", f"competitor={child.id}"] if person else ["--payload-key", f"competitorId={child.id}"]
        ran = jobdeck("erase", *asked, "--wait", "--yes")
        assert ran.code == 0
        assert f"Waiting for its end. Job {running.id}" in ran.err
        assert places(dumped(conn), [str(child.id)] if person else []) == {}


class TestWhoMay:
    """Only the owner of the tables erases and sets periods."""

    @pytest.mark.slow
    @pytest.mark.parametrize("group", ["job_viewer", "job_operator", "job_worker"])
    def test_no_group_may(
        self,
        jobdeck: Jobdeck,
        conn: Connection,
        people: People,
        database_url: str,
        group: str,
        child: Child,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        conn.add(payload=PAYLOAD)
        with conn.changes_nothing():
            monkeypatch.setenv("DATABASE_URL", people.address(database_url, group))
            for arguments in (
                ["erase", "--payload-key", "customerId=5", "--yes"],
                ["erase", "--payload-key", "customerId=5", "--dry-run"],
                ["erase", "--person", f"competitor={child.id}", "--yes"],
                ["retention", "job_audit", "--days", "1"],
            ):
                jobdeck(*arguments).refused(1, "Only the owner of the tables may", group)
            assert jobdeck("retention").code == 0
