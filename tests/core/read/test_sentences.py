"""The sentences for codes: each code of the database has one, and none is for a code that nothing answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.read.sentences import ACTIONS, CANARIES, CLAUSES, SENTENCES, sentence
from jobdeck.core.schema import schema_text

ROOT = Path(__file__).resolve().parents[3]
CODE = re.compile(r"'([a-z]+(?:-[a-z]+)+)'")
PYTHON_CODE = re.compile(r'result\(\s*[\w.]+,\s*"([a-z-]+)"')
FACTS: dict[str, Any] = {
    "callback": "refund",
    "status": "failed", "state": "pending", "holder": "h1", "blocker": "b1", "copy": "c1",
    "earlier": "e1", "job": "j1", "names": "a, b",
    "older_than": "20m", "sentence": "It is refused.", "worker": "w1", "workers": 3, "handling": 2,
    "ahead": 10_001, "at_least": True, "per_second": 50.0,
    "task_type": "alpha", "paused_by": "mara@local", "reason": "a drill", "actor": "mara@local",
    "action": "edit", "asked_by": "mara@local", "canary_job": "j2", "held_by": "key-held", "who": "another runner",
    "hold": 3, "key": "customerId", "queue": "mail",
    "running": 2, "max_running": 2, "max_per_key": 2, "seconds": 12, "slots": 2, "kind": "thread",
    "asked_at": "2026-08-01T14:03:07.5+02:00",
    **dict.fromkeys(("paused_at", "expired_at", "expires_at", "run_at", "at"), "2026-08-01T14:03:07.5+02:00"),
}  # fmt: skip


def codes_of_the_database() -> set[str]:
    return set(CODE.findall(schema_text()))


def codes_of_programs() -> set[str]:
    sources = [*ROOT.glob("core/queue/*.py"), *ROOT.glob("core/cli/**/*.py")]
    return {code for path in sources for code in PYTHON_CODE.findall(path.read_text(encoding="utf-8"))}


def test_every_code_of_the_database_has_a_sentence() -> None:
    found = codes_of_the_database()
    assert len(found) > 50
    assert found - SENTENCES.keys() == set()


def test_every_sentence_is_for_a_code_that_something_answers() -> None:
    assert SENTENCES.keys() - codes_of_the_database() - codes_of_programs() == set()
    assert codes_of_programs() - SENTENCES.keys() == set()
    assert len(SENTENCES) == len(ACTIONS) + len(CLAUSES) + len(CANARIES)


def test_the_slots_of_a_type_are_told_by_their_kind() -> None:
    full = {"kind": "thread", "slots": 8, "running": 8, "workers": 2, "seconds": 9}
    assert sentence("slots-busy", full) == (
        "All 8 thread slots of the 2 workers that handle this type are busy; the longest run is at 9s."
    )
    assert sentence("slots-busy", full | {"slots": 1, "running": 1, "workers": 1, "kind": "process"}) == (
        "The only process slot of the worker that handles this type is busy; the longest run is at 9s."
    )
    assert sentence("slot-free", full | {"slots": 1200, "kind": "async"}) == (
        "8 of 1,200 async slots of the 2 workers that handle this type are taken."
    )


def test_a_member_that_was_cancelled_learns_what_revives_it() -> None:
    ended = {"open": 0, "total": 3, "names": []}
    for needs, revived in (("success", True), ("end", False), ("failure", False)):
        said = sentence("waits-for-members", ended | {"needs": needs})
        assert ("a retry of that one revives it" in said) == revived


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_names_its_facts(code: str) -> None:
    made = sentence(code, FACTS)
    assert made.endswith(".")
    assert not {"{", "}", "?", "None"} & set(made.split())
    assert "?" not in made


@pytest.mark.parametrize("code", SENTENCES)
def test_a_database_that_leaves_facts_out_breaks_no_sentence(code: str) -> None:
    assert sentence(code)
    assert sentence(code, dict.fromkeys(FACTS))


@pytest.mark.parametrize(
    ("code", "facts", "expected"),
    [
        ("has-changed", {"status": "running"}, "It has changed and is now running. Refresh, then decide."),
        ("key-held", {"holder": "h1"}, "Job h1 with the same dedupe key is already pending or running."),
        ("hopeless-blocker", {"blocker": "b1", "status": None},
         "The blocker, job b1, does not exist. Retry the blocker first, or enqueue this job without a blocker."),
        ("is-stuck", {"expired_at": "2026-08-01T14:03:07.5+02:00", "worker": "w1"},
         "Stuck since 2026-08-01 12:03:07Z: the lease of w1 expired."),
        ("processing-off", {"paused_at": "2026-08-01T14:03:07+02:00", "paused_by": "mara", "reason": "a drill"},
         "Automatic processing has been off since 2026-08-01 12:03Z, by mara: a drill."),
        ("processing-off", {"paused_at": "2026-08-01T14:03:07+02:00"},
         "Automatic processing has been off since 2026-08-01 12:03Z."),
        ("due-later", {"run_at": "20000-01-01T00:00:00+00:00"}, "It is due at 20000-01-01T00:00:00+00:00."),
        ("not-admitted", {"sentence": "It costs {5}."}, "It costs {5}."),
        ("others-ahead", {"ahead": 10_001, "at_least": True, "per_second": 50.0},
         "10,000+ due jobs are ahead; the workers of this type finish 50/s."),
        ("others-ahead", {"ahead": 1, "at_least": False, "per_second": 0.25},
         "1 due job is ahead; at 15/min less than a minute."),
        ("others-ahead", {"ahead": 9000, "at_least": False, "per_second": 1.5},
         "9,000 due jobs are ahead; at 1.5/s about 2 hours."),
        ("others-ahead", {"ahead": 900, "at_least": False, "per_second": None},
         "900 due jobs are ahead; the workers of this type finished no run in the last full minute."),
        ("has-status", {"status": "running"}, "The job is running."),
        ("has-status", {"status": "failed"},
         "The job is failed: see its last error. A retry makes it due again."),
        ("has-status", {"status": "cancelled"}, "The job is cancelled. A retry makes it due again."),
        ("a-newer-code", {"holder": "h1"}, "A newer code."),
    ],
)  # fmt: skip
def test_a_sentence_says(code: str, facts: dict[str, Any], expected: str) -> None:
    assert sentence(code, facts) == expected
