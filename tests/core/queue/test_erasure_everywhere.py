"""An erasure finds a text in each spelling, leaves what is about others, and says where something remains."""

from __future__ import annotations

from typing import Any

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.plugins import Erased
from jobdeck.core.queue import operator, privacy
from tests.support.dump import dumped, places
from tests.support.queue import ACTOR, Connection

PAT = "zzpat@zz.example"


def erased(conn: Connection, wanted: str = PAT, key: str = "mail") -> list[Erased]:
    """Erases a value, of which there is a finished job."""
    with conn.transaction():
        return privacy.erase_payload(conn, key, wanted, actor=ACTOR)


def left(found: list[Erased]) -> list[tuple[str, int]]:
    return [(one.place, one.rows) for one in found if one.remains]


def done(conn: Connection, wanted: Any = PAT, key: str = "mail") -> None:
    conn.add("done", payload={key: wanted})
    conn.finish_one(conn.claim_one(["done"]))


def mark(conn: Connection) -> str:
    return str(conn.value("SELECT job_erased_mark()"))


ID = "0192c7d1-90ab-4def-8123-456789abcdef"
SPELLINGS = {
    PAT: (
        f"welcome-{PAT}", f"{PAT}-2026", f"probe.{PAT}", PAT.upper(), f"Pat <{PAT}>", f"x{PAT}x", f"to:\n{PAT}\n",
        f'"{PAT}"', f"mailto:{PAT.replace('@', '%40')}", PAT.replace("@", "&#64;"), PAT.replace("@", "\\u0040"),
    ),
    "+15005550123": ("x+15005550123", "+1 (500) 555-0123", "tel:+1-500-555-0123", "%2B15005550123"),
    ID: (f"sync-{ID}", f"u{ID.upper().replace('-', '')}", f"{ID}7"),
    "12345678": ("user12345678", "order 12345678.", "%2212345678%22", '{"a":"\n12345678"}'),
    "Zoë Zyxin": (
        "dear Zoë Zyxin,", "\nzoë  zyxin\n", "x=Zo%C3%AB+Zyxin", "Zo%C3%AB%20Zyxin", "to\nZoë\nZyxin",
        '{"to": "Zo\\u00eb Zyxin"}',
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("wanted", SPELLINGS)
def test_texts_that_contain_the_value_in_any_spelling_are_emptied(conn: Connection, wanted: str) -> None:
    done(conn, wanted)
    texts = SPELLINGS[wanted]
    waiting = [conn.add("beta", payload={"to": {"note": text}, "n": 1}).id for text in texts]
    failed = [conn.add("gamma", max_attempts=1).id for _ in texts]
    for text, job in zip(texts, conn.claim(["gamma"], limit=len(texts)), strict=True):
        conn.finish_one(job, "failed", error=f"no {text}", log=text, traceback=text)
    assert left(erased(conn, wanted)) == []
    gone = mark(conn)
    assert [conn.job_row(job)["payload"] for job in waiting] == [{"to": {"note": gone}, "n": 1}] * len(texts)
    assert [conn.job_row(job)["last_error"] for job in failed] == [gone] * len(texts)
    assert places(dumped(conn), [wanted, *texts]) == {}


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        ("12345678", ("112345678", "123456789", "1234-5678")), ("Ann Zyxin", ("Joann Zyxin", "Ann Zyxine")),
        ("+15005550123", ("915005550123", "+150055501234")),
    ],
)  # fmt: skip
def test_a_longer_number_or_name_is_another_one(conn: Connection, wanted: str, texts: tuple[str, ...]) -> None:
    done(conn, wanted)
    payload = {"notes": list(texts), "number": 112345678, "share": 1234.5678}
    other = conn.add("beta", payload=payload)
    erased(conn, wanted)
    assert conn.job_row(other.id)["payload"] == payload


def test_a_longer_value_of_the_same_field_belongs_to_somebody_else(conn: Connection) -> None:
    done(conn)
    other = conn.add("beta", payload={"mail": f"ann.{PAT}", "cc": [f"ann.{PAT}"]}, dedupe_key=f"d-ann.{PAT}")
    before = conn.job_row(other.id)
    assert left(erased(conn)) == []
    assert conn.job_row(other.id) == before


class TestShortValues:
    """A value under 8 characters is erased as a whole value of its field, and never within a text."""

    def test_the_field_is_erased_wherever_it_is(self, conn: Connection) -> None:
        done(conn, 57, "customerId")
        other = conn.add("beta", payload={"a": {"customerId": 57}, "b": [{"customerId": "57", "note": "57"}], "n": 57})
        assert left(erased(conn, "57", "customerId")) == []
        gone = mark(conn)
        payload = {"a": {"customerId": gone}, "b": [{"customerId": gone, "note": "57"}], "n": 57}
        assert conn.job_row(other.id)["payload"] == payload

    def test_a_longer_value_stays(self, conn: Connection) -> None:
        done(conn, 57, "customerId")
        other = conn.add("beta", payload={"customerId": 577, "a": {"customerId": "157"}})
        before = conn.job_row(other.id)
        erased(conn, "57", "customerId")
        assert conn.job_row(other.id) == before


class TestJobsThatWait:
    def test_one_with_the_value_at_the_top_is_cancelled_with_the_reason(self, conn: Connection) -> None:
        done(conn)
        job = conn.add("beta", payload={"to": PAT.upper()})
        erased(conn)
        assert conn.job_row(job.id)["status"] == "cancelled"
        (reason,) = conn.execute("SELECT reason FROM job_audit WHERE action = 'cancel'").fetchall()[0]
        assert f"[{reason}]" == mark(conn)

    def test_one_with_the_value_in_a_list_runs_without_the_entry(self, conn: Connection) -> None:
        done(conn)
        job = conn.add("beta", payload={"to": [PAT, "zzann@zz.example"], "deep": [[PAT.upper()], 1]})
        assert left(erased(conn)) == []
        assert conn.claim_one(["beta"]).payload == {"to": ["zzann@zz.example"], "deep": [[], 1]}
        assert conn.job_row(job.id)["status"] == "running"

    def test_one_whose_list_names_nobody_else_is_cancelled(self, conn: Connection) -> None:
        done(conn)
        job = conn.add("beta", payload={"to": [PAT, f" {PAT}"]})
        erased(conn)
        assert conn.job_row(job.id)["status"] == "cancelled"

    def test_one_with_the_value_in_its_keys_runs_without_them(self, conn: Connection) -> None:
        done(conn)
        job = conn.add("beta", dedupe_key=f"welcome-{PAT}", concurrency_key=f"{PAT}-2026")
        behind = conn.add("beta", concurrency_key=f"{PAT}-2026")
        assert left(erased(conn)) == []
        assert {one.id for one in conn.claim(["beta"])} == {job.id, behind.id}
        row = conn.job_row(job.id)
        assert (row["dedupe_key"], row["concurrency_key"], row["in_line"]) == (None, None, False)

    def test_a_key_that_does_not_name_the_value_stays(self, conn: Connection) -> None:
        done(conn)
        job = conn.add("beta", dedupe_key=f"welcome-{PAT}", concurrency_key="k")
        erased(conn)
        row = conn.job_row(job.id)
        assert (row["dedupe_key"], row["concurrency_key"]) == (None, "k")

    def test_a_series_that_only_mentions_the_value_loses_the_text_and_goes_on(self, conn: Connection) -> None:
        done(conn)
        series = conn.add("beta", payload={"to": {"cc": f"Pat <{PAT}>"}}, recurrence_interval_minutes=5)
        assert left(erased(conn)) == []
        row = conn.job_row(series.id)
        assert (row["status"], row["payload"]) == ("pending", {"to": {"cc": mark(conn)}})

    @pytest.mark.parametrize(
        "fields",
        [{"payload": {"mail": PAT}}, {"payload": {"to": [PAT]}}, {"payload": {"mail": "x"}, "dedupe_key": f"d-{PAT}"}],
    )
    def test_a_series_is_left_as_it_is_and_listed(self, conn: Connection, fields: dict[str, Any]) -> None:
        done(conn)
        series = conn.add("beta", recurrence_interval_minutes=5, **fields)
        before = conn.job_row(series.id)
        assert left(erased(conn)) == [(f"job_queue (series {series.id})", 1)]
        assert conn.job_row(series.id) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": {"to": PAT}}, {"payload": {"a": {"b": [PAT]}}}, {"dedupe_key": f"welcome-{PAT}"},
        {"concurrency_key": f"{PAT}-2026"},
    ],
)  # fmt: skip
def test_a_job_that_runs_with_the_value_is_refused_by_its_id(conn: Connection, fields: dict[str, Any]) -> None:
    done(conn)
    running = conn.add("beta", **fields)
    conn.claim_one(["beta"])
    before = dumped(conn)
    with pytest.raises(Refused, match=f"Job {running.id}, whose texts would be erased, is running."):
        erased(conn)
    assert dumped(conn) == before


def test_a_deleted_job_about_the_value_is_removed_from_the_trash(conn: Connection) -> None:
    done(conn)
    operator.delete(conn, [conn.add("beta", payload={"to": PAT}).id, conn.add("beta").id], actor=ACTOR)
    erased(conn)
    assert conn.value("SELECT count(*) FROM job_trash") == 1


def test_a_name_of_a_type_is_left_and_listed(conn: Connection) -> None:
    done(conn)
    conn.add(f"mail-to-{PAT}")
    assert left(erased(conn)) == [("job_queue", 1)]


def test_what_the_erasure_did_not_recognise_is_listed_by_place_and_count(conn: Connection) -> None:
    done(conn)
    spaced = PAT.replace("@", " @ ").replace(".", " . ")
    for _ in range(2):
        conn.add("beta", payload={"note": spaced})
    operator.pause(conn, reason=spaced, actor=ACTOR, task_type="beta")
    found = left(erased(conn))
    assert ("job_queue", 2) in found
    assert ("job_types", 1) in found


def test_a_name_that_was_left_is_also_listed_where_json_has_escaped_its_letters(conn: Connection) -> None:
    done(conn, "Zoë Zyxin")
    conn.add("beta", payload={"note": "Zo\\u00eb-Zyxin"})
    assert left(erased(conn, "Zoë Zyxin")) == [("job_queue", 1)]


@pytest.mark.slow
def test_the_statistics_of_postgres_keep_no_value(conn: Connection) -> None:
    done(conn)
    for number in range(20):
        conn.add("beta", payload={"to": PAT, "n": number % 2})
    conn.execute("ANALYZE job_queue")
    in_statistics = "SELECT count(*) FROM pg_stats WHERE concat(most_common_vals, histogram_bounds) LIKE %s"
    assert conn.value(in_statistics, f"%{PAT}%") > 0
    assert left(erased(conn)) == []
    assert conn.value(in_statistics, f"%{PAT}%") == 0


@pytest.mark.slow
def test_a_group_of_errors_whose_pattern_has_no_digits_is_found(conn: Connection) -> None:
    done(conn, "zzpat22@zz.example")
    conn.execute(
        "INSERT INTO job_error_groups (task_type, fingerprint, error_kind, pattern, first_at, last_at) "
        "SELECT 'beta', 'f', 'Zz', job_error_pattern('no zzpat22@zz.example'), now(), now()"
    )
    conn.execute("INSERT INTO job_stat_errors VALUES ('beta', 'f', job_stat_bucket(5, now()), 1)")
    erased(conn, "zzpat22@zz.example")
    assert places(dumped(conn), ["zzpat"]) == {}


def test_a_run_that_failed_with_the_value_has_the_hash_of_the_erased_error(conn: Connection) -> None:
    done(conn)
    failed = conn.add("beta", max_attempts=1)
    conn.finish_one(conn.claim_one(["beta"]), "failed", error=f"no welcome-{PAT}", error_kind="Zz")
    erased(conn)
    fingerprint = conn.value("SELECT job_error_fingerprint('Zz', job_erased_mark())")
    assert conn.job_row(failed.id)["fingerprint"] == fingerprint


def test_every_text_of_the_queue_is_searched(conn: Connection) -> None:
    """But for tables of which the program alone makes the texts, or that have names of machines and programs."""
    found = conn.execute(
        """
        SELECT DISTINCT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND c.relname ~ '^job_' AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'task_type'
            AND a.atttypid = ANY (ARRAY['text', 'jsonb', 'text[]']::regtype[])
            AND c.relname <> ALL (job_tables_with_texts())
        """
    ).fetchall()
    assert {name for (name,) in found} == {
        "job_dependencies", "job_producer_keys", "job_releases", "job_retention",
        "job_run_partitions", "job_stats", "job_type_values", "job_workers",
    }  # fmt: skip


@pytest.mark.competition
def test_a_column_that_is_left_because_of_its_check_has_words_of_the_program_alone(conn: Connection) -> None:
    left_out = conn.execute(
        """
        SELECT c.conrelid::regclass::text, a.attname, pg_get_constraintdef(c.oid)
        FROM pg_constraint AS c JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
        WHERE c.connamespace = current_schema()::regnamespace AND c.contype = 'c' AND a.attname <> 'task_type'
            AND a.atttypid = ANY (ARRAY['text', 'jsonb', 'text[]']::regtype[])
        """
    ).fetchall()
    assert left_out
    assert [one for one in left_out if "= ANY (ARRAY[" not in one[2]] == []
