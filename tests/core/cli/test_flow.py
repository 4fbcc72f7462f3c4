"""`jobdeck flow`: lists flows, shows one as a tree, cancels one as a whole."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest

from jobdeck.core.queue import operator
from tests.core.cli.support import Jobdeck
from tests.core.queue.flows.steps import enqueue, fail, flow_of, member, states
from tests.support.queue import ACTOR, Connection, report


@pytest.fixture
def ids(conn: Connection) -> dict[str, UUID]:
    """A flow of which one part has failed and another has succeeded."""
    made = enqueue(
        conn, member("a"), member("b"), member("c"), member("join", "abc"), member("end", "abc", needs="end")
    )
    first, second, *_ = conn.claim(limit=2)
    conn.finish(report(first))
    fail(conn, second, "boom")
    return made


@pytest.mark.slow
def test_without_an_id_the_newest_flows_are_listed(jobdeck: Jobdeck, conn: Connection, ids: dict[str, UUID]) -> None:
    enqueue(conn, member("alone"))
    newest, first = jobdeck("flow", "--json").data["flows"]
    assert (newest["state"], newest["members"]) == ("running", {"pending": 1})
    assert first["id"] == str(flow_of(conn, ids["a"]))
    assert first["members"] == {"succeeded": 1, "failed": 1, "pending": 1, "cancelled": 1, "blocked": 1}
    text = jobdeck("flow").out
    assert "1 pending, 1 blocked, 1 succeeded, 1 failed, 1 cancelled" in text
    assert len(jobdeck("flow", "--limit", "1", "--json").data["flows"]) == 1


def test_no_flow_is_said_in_words(jobdeck: Jobdeck) -> None:
    assert jobdeck("flow").out == "No flows.\n"


def test_a_flow_is_shown_as_a_tree(jobdeck: Jobdeck, conn: Connection) -> None:
    made = enqueue(conn, member("split"), member("left", ["split"]), member("right", ["split"]),
                   member("join", ["left", "right"]), member("after", ["join"]))  # fmt: skip
    ran = jobdeck("flow", str(made["left"]))
    assert "running: 0 of 5 members have ended" in ran.out
    shown = [line.strip().partition("  ")[0] for line in ran.out.split("Members\n")[1].splitlines()]
    assert shown == ["MEMBER", "split", "├─ left", "├─ right", "└─ join", "└─ after"]
    assert "after 2: left, right" in ran.out


@pytest.mark.parametrize("which", ["flow", "job", "end of the flow's id", "end of a job's id"])
def test_a_flow_is_found_by_its_id_and_by_that_of_a_job(
    jobdeck: Jobdeck, conn: Connection, ids: dict[str, UUID], which: str
) -> None:
    flow = str(flow_of(conn, ids["a"]))
    text = {"flow": flow, "job": str(ids["c"]), "end of the flow's id": flow[-12:],
            "end of a job's id": str(ids["c"])[-12:]}[which]  # fmt: skip
    data = jobdeck("flow", text, "--json").data
    assert data["id"] == flow
    jobs = {one["name"]: one for one in data["jobs"]}
    assert {name: one["state"] for name, one in jobs.items()} == {
        "a": "succeeded", "b": "failed", "c": "pending", "join": "cancelled", "end": "blocked"}  # fmt: skip
    assert jobs["join"]["after"] == sorted(str(ids[name]) for name in "abc")
    assert (jobs["end"]["needs"], jobs["b"]["last_error"]) == ("end", "boom")


@pytest.mark.slow
def test_a_long_flow_is_cut_to_the_lines_that_are_asked_for(jobdeck: Jobdeck, conn: Connection) -> None:
    names = [f"load {number}" for number in range(300)]
    made = enqueue(conn, *map(member, names), *(member(f"next {name}", [name]) for name in names[:20]))
    tree = jobdeck("flow", str(made["load 0"])).out.split("Members\n")[1]
    assert "… 275 more alpha, pending" in tree
    cut = jobdeck("flow", str(made["load 0"]), "--limit", "10").out.split("Members\n")[1].splitlines()
    assert len(cut) == 11
    assert "more lines" in cut[-1]


@pytest.mark.slow
def test_a_flow_is_cancelled_with_yes_alone(jobdeck: Jobdeck, conn: Connection, ids: dict[str, UUID]) -> None:
    with conn.changes_nothing():
        jobdeck("flow", "cancel", str(ids["a"])).refused(1, "This would cancel 2 jobs", "--yes")
        dry = jobdeck("flow", "cancel", str(ids["a"]), "--dry-run", "--json").data
    assert (dry["cancelled"], dry["asked"], dry["ended"], dry["dry_run"]) == (2, 0, 3, True)
    ran = jobdeck("flow", "cancel", str(ids["a"]), "--yes", "--reason", "wrong day")
    assert ran.out == "Members of the flow: 2 cancelled, 0 running asked to stop, 3 had ended before.\n"
    assert states(conn) == {"a": "succeeded", "b": "failed", "c": "cancelled", "join": "lost", "end": "cancelled"}
    assert {row["reason"] for row in conn.audit_rows("cancel")} == {"wrong day"}
    again = jobdeck("flow", "cancel", str(ids["a"]), "--yes")
    assert again.out.startswith("No member of the flow waits")


def test_what_cannot_be_found_or_understood_is_refused(jobdeck: Jobdeck, conn: Connection) -> None:
    alone = enqueue(conn, member("a"))["a"]
    operator.delete(conn, [alone], actor=ACTOR)
    assert jobdeck("flow", str(alone)).code == 0
    jobdeck("flow", str(uuid4())).refused(1, "is in no flow, and no flow has this ID")
    jobdeck("flow", "ffff0000").refused(1, "No flow and no job")
    jobdeck("flow", "cancel").refused(2, "Name the flow")
    jobdeck("flow", str(alone), str(alone)).refused(2, "Name one flow")
    jobdeck("flow", str(alone), "--yes").refused(2, "are for `jobdeck flow cancel ID`")


@pytest.mark.slow
def test_personal_data_in_names_is_masked(jobdeck: Jobdeck, conn: Connection) -> None:
    made = enqueue(conn, member("mail jane.doe@example.org"), member("next", ["mail jane.doe@example.org"]))
    for arguments in (("flow",), ("flow", str(made["next"])), ("flow", str(made["next"]), "--json"),
                      ("why", str(made["next"]))):  # fmt: skip
        assert "jane.doe" not in jobdeck(*arguments).out
    json.loads(jobdeck("flow", "--json").out)
