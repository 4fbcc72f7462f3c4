"""What the failed runs of a group, or some jobs, have more often than all runs of their type."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from jobdeck.core.read.batch import as_viewer
from jobdeck.core.read.stats.facets import Facet, Facets, of_group, of_jobs
from tests.support.failed_runs import ERROR, of_coach, ran
from tests.support.plans import Size, cost_of, fill
from tests.support.queue import Connection


def found(conn: Connection) -> Facets:
    return of_group("push", ERROR).run(conn)


def facet(facets: Facets, key: str) -> Facet:
    (one,) = [one for one in facets.all if one.key == key]
    return one


def test_a_value_that_only_the_failed_runs_have_is_odd_and_the_rest_is_as_everywhere(conn: Connection) -> None:
    of_coach(conn)
    facets = found(conn)
    (odd,) = facets.odd
    assert (odd.kind, odd.key, odd.value, odd.share, odd.usual) == ("payload", "coachId", "bad", 1.0, 0.1)
    assert (odd.failed, odd.everywhere) == (21, 30)
    assert facets.read == 21
    assert {one.key for one in facets.usual} == {"division", "worker", "attempt"}


def test_later_tries_of_what_fails_do_not_make_its_value_usual(conn: Connection) -> None:
    of_coach(conn)
    for attempt in range(2, 10):
        ran(conn, 21, {"coachId": "bad", "division": "Senior"}, "retried", attempt=attempt)
    (odd, *_) = found(conn).odd
    assert (odd.key, odd.usual) == ("coachId", 0.1)


def test_later_tries_are_a_facet_and_never_odd(conn: Connection) -> None:
    of_coach(conn)
    ran(conn, 63, {"coachId": "bad"}, "retried", attempt=2)
    tries = facet(found(conn), "attempt")
    assert (tries.value, tries.share, tries.odd) == ("later", 0.75, False)


def test_a_viewer_gets_the_key_and_the_shares_and_no_value(conn: Connection) -> None:
    of_coach(conn)
    with as_viewer(conn):
        (odd,) = found(conn).odd
    assert (odd.key, odd.value, odd.hidden, odd.share) == ("coachId", None, True, 1.0)


def test_the_function_of_the_database_returns_no_value_of_a_payload(conn: Connection) -> None:
    of_coach(conn)
    told = conn.execute("SELECT f::text FROM job_facets('push', %s) AS f", (ERROR,)).fetchall()
    assert told
    assert "bad" not in str(told)


def test_a_worker_can_be_odd(conn: Connection) -> None:
    ran(conn, 100, {}, worker_id="w1")
    ran(conn, 20, {}, "failed", worker_id="w2")
    (odd,) = found(conn).odd
    assert (odd.kind, odd.value) == ("worker", "w2")


def test_a_release_of_several_workers_can_be_odd(conn: Connection) -> None:
    conn.execute("""
        INSERT INTO job_workers (id, host, pid, mode, version, concurrency, task_types, release)
        SELECT w.id, 'h', 1, 'worker', '1', 1, '{push}', w.release
        FROM (VALUES ('w1', '1.0'), ('w2', '1.1'), ('w3', '1.1')) AS w (id, release)
    """)
    ran(conn, 300, {}, worker_id="w1")
    ran(conn, 30, {}, worker_id="w2")
    ran(conn, 30, {}, worker_id="w3")
    ran(conn, 15, {}, "failed", worker_id="w2")
    ran(conn, 15, {}, "failed", worker_id="w3")
    (odd,) = [one for one in found(conn).odd if one.kind == "release"]
    assert (odd.value, odd.these, odd.sampled) == ("1.1", 30, 30)


@pytest.mark.parametrize(("runs", "odd"), [(9, False), (10, True)])
def test_a_value_counts_with_ten_runs(conn: Connection, runs: int, odd: bool) -> None:
    ran(conn, 100, {"coachId": "good"})
    ran(conn, runs, {"coachId": "bad"}, "failed")
    assert bool(found(conn).odd) is odd


def test_a_value_with_less_than_twice_its_share_of_all_runs_is_as_everywhere(conn: Connection) -> None:
    ran(conn, 60, {"coachId": "one"})
    ran(conn, 30, {"coachId": "two"})
    ran(conn, 20, {"coachId": "one"}, "failed")
    ran(conn, 20, {"coachId": "two"}, "failed")
    assert not facet(found(conn), "coachId").odd


@pytest.mark.parametrize(("values", "known"), [(200, True), (201, False)])
def test_a_key_with_more_than_two_hundred_values_is_left_out(conn: Connection, values: int, known: bool) -> None:
    for order in range(values - 1):
        ran(conn, 1, {"orderId": order}, "failed")
    ran(conn, 100, {"orderId": "same"}, "failed")
    assert ("orderId" in {one.key for one in found(conn).all}) is known


def test_values_are_compared_as_json(conn: Connection) -> None:
    ran(conn, 100, {"n": "7"})
    ran(conn, 20, {"n": 7}, "failed")
    assert facet(found(conn), "n").value == 7


def test_the_newest_five_hundred_runs_are_read(conn: Connection) -> None:
    ran(conn, 30, {"old": True}, "failed")
    ran(conn, 500, {"coachId": "bad"}, "failed")
    facets = found(conn)
    assert facets.read == 500
    assert "old" not in {one.key for one in facets.all}


@pytest.mark.parametrize(
    "payload", [[], "text", 3, None, {}, {"a": {"b": [1, {"c": "x" * 5000}]}}, {"k\x01\x1b[31m": "\u202e"}]
)
def test_any_payload_is_read(conn: Connection, payload: Any) -> None:
    ran(conn, 20, payload)
    ran(conn, 20, payload, "failed")
    assert found(conn).read == 20
    assert not found(conn).odd


def test_a_payload_that_is_huge_or_has_very_many_keys_is_counted_without_its_keys(conn: Connection) -> None:
    text = conn.value("SELECT string_agg(md5(n::text), '') FROM generate_series(1, 5000) AS n")
    ran(conn, 20, {"text": text}, "failed")
    ran(conn, 20, {f"key{number}": number for number in range(500)}, "failed")
    facets = found(conn)
    assert facets.read == 40
    assert "text" not in {one.key for one in facets.all}
    assert len(facets.all) <= 50


def test_a_group_whose_runs_were_pruned_has_no_facets(conn: Connection) -> None:
    assert found(conn) == Facets()
    assert of_group("nobody's", None).run(conn) == Facets()


def test_all_failed_runs_of_a_type_have_facets_together(conn: Connection) -> None:
    of_coach(conn)
    (odd,) = of_group("push", None).run(conn).odd
    assert odd.value == "bad"


def test_the_jobs_of_a_filter_have_facets_by_their_payloads(conn: Connection) -> None:
    for coach in range(10):
        ran(conn, 10, {"coachId": f"c{coach}"})
    jobs = [conn.add("push", payload={"coachId": "c3", "n": n}).id for n in range(20)]
    facets = of_jobs("push", [*jobs, uuid4()]).run(conn)
    (odd, *_) = facets.odd
    assert (facets.read, odd.key, odd.value, odd.share, odd.usual) == (20, "coachId", "c3", 1.0, 0.1)
    assert of_jobs("push", []).run(conn) == Facets()


def test_jobs_that_left_the_queue_have_facets(conn: Connection) -> None:
    ran(conn, 100, {"coachId": "c1"})
    ran(conn, 20, {"coachId": "c2"})
    conn.execute('UPDATE job_runs SET removed = true WHERE payload @> \'{"coachId": "c2"}\'')
    gone = [row[0] for row in conn.execute("SELECT id FROM job_removed_list").fetchall()]
    (odd,) = of_jobs("push", gone).run(conn).odd
    assert (odd.value, odd.share) == ("c2", 1.0)


@pytest.mark.slow
def test_a_long_history_is_not_read(conn: Connection) -> None:
    fill(conn, Size(runs=60_000))
    conn.execute(
        "INSERT INTO job_error_groups (task_type, fingerprint, first_at, last_at) VALUES ('alpha', 'f', now(), now())"
    )
    cost = cost_of(conn, of_group("alpha", "f").run)
    assert cost.whole_tables == []
    assert cost.rows < 30_000, cost.entries
    assert of_group("alpha", "f").run(conn).read == 500
