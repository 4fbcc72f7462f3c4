"""The outbox under any order of events: nobody is sent a message twice, whatever dies, comes late or repeats itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.outbox import Claimed, Policy
from tests.core.programme.outbox_support import JOB, LEASE, TOKEN, add_profile, intent, let_leases_end, settle_one
from tests.support.examples import machine_settings
from tests.support.queue import Connection

KEYS = ("a", "b", "c")
RANK = {"queued": 0, "sending": 1, "uncertain": 2, "failed": 2, "suppressed": 2, "accepted": 3, "delivered": 4,
        "blocked": 5, "dropped": 6, "bounced": 7}  # fmt: skip


@dataclass
class Attempt:
    """One attempt as its sender knows it: whether the provider really took the message."""

    claimed: Claimed
    taken: bool
    reported: bool = False


@dataclass
class Model:
    """What must be true of one message."""

    address: str
    id: UUID | None = None
    state: str = "nothing"
    attempts: int = 0
    decisions: int = 0
    made: list[Attempt] = field(default_factory=list)

    @property
    def taken(self) -> int:
        return sum(attempt.taken for attempt in self.made)


class Outbox(RuleBasedStateMachine):
    """Senders that die and come back, sweeps, events, opt-outs and decisions, in any order."""

    conn: Connection

    @initialize()
    def begin(self) -> None:
        self.conn.execute(
            "truncate outbox_messages, outbox_left_out, email_suppressions, provider_events, profiles, job_audit "
            "cascade"
        )
        self.models = {key: Model(f"zz{key}@example.org") for key in KEYS}
        self.people = {key: add_profile(self.conn) for key in KEYS}
        self.barred: set[str] = set()
        self.numbers = count(1)

    @rule(key=st.sampled_from(KEYS))
    def put(self, key: str) -> None:
        model = self.models[key]
        decision = outbox.put(
            self.conn,
            [intent(self.people[key], key, kind="parent_probe", address=model.address)],
            Policy(), job_id=JOB, run_token=TOKEN,
        )[0]  # fmt: skip
        if model.state in {"nothing", "queued", "suppressed"}:
            if model.address in self.barred:
                assert decision.verdict == "suppressed"
                model.state = "suppressed" if model.state != "nothing" else "nothing"
            else:
                assert decision.verdict == "queued"
                model.state, model.id = "queued", decision.id
        else:
            done = {"sending": "in_flight", "uncertain": "uncertain", "failed": "failed"}
            assert decision.verdict == done.get(model.state, "sent")

    @rule(key=st.sampled_from(KEYS), taken=st.booleans())
    def claim(self, key: str, taken: bool) -> None:
        model = self.models[key]
        if model.id is None:
            return
        found = outbox.claim(self.conn, [model.id], lease_seconds=LEASE, job_id=JOB, run_token=TOKEN)
        if model.state != "queued":
            assert found == []
        elif model.address in self.barred:
            assert found == []
            model.state = "suppressed"
        else:
            model.attempts += 1
            assert [one.attempt for one in found] == [model.attempts]
            model.state = "sending"
            model.made.append(Attempt(found[0], taken))

    @rule(key=st.sampled_from(KEYS), which=st.integers(0, 5), outcome=st.sampled_from(["retry", "failed", "uncertain"]))
    def report(self, key: str, which: int, outcome: str) -> None:
        """An honest sender's report, once, whenever it comes: what was taken is never said to be certainly unsent."""
        model = self.models[key]
        waiting = [attempt for attempt in model.made if not attempt.reported]
        if not waiting:
            return
        attempt = waiting[which % len(waiting)]
        attempt.reported = True
        said = ("accepted" if outcome != "uncertain" else "uncertain") if attempt.taken else outcome
        counted = settle_one(self.conn, attempt.claimed, said, provider_message_id=f"m{attempt.claimed.attempt}")
        current = attempt.claimed.attempt == model.attempts
        if current and model.state in {"sending", "uncertain"}:
            model.state = "queued" if said == "retry" else said
            assert counted == model.state
        elif counted is not None:
            assert current
            assert said == "accepted"
            assert counted == model.state

    @rule()
    def senders_die(self) -> None:
        let_leases_end(self.conn)
        outbox.sweep(self.conn)
        for model in self.models.values():
            if model.state == "sending":
                model.state = "uncertain"

    @rule(key=st.sampled_from(KEYS), event=st.sampled_from(["delivered", "blocked", "dropped", "bounced", "deferred"]))
    def event(self, key: str, event: str) -> None:
        """The provider tells of a message that it took."""
        model = self.models[key]
        if not model.taken:
            return
        number = next(self.numbers)
        entry = {"provider": "sendgrid", "event_key": f"e{number}", "event": event, "outbox_id": str(model.id),
                 "occurred_at": 2_000_000_000 + number, "address": model.address}  # fmt: skip
        assert outbox.record_events(self.conn, [entry, entry]) == 1
        assert outbox.apply_events(self.conn)["failed"] == 0
        if event == "deferred":
            return
        if RANK[event] > RANK[model.state] or (event, model.state) == ("delivered", "blocked"):
            model.state = event
        if event == "bounced":
            self.barred.add(model.address)

    @rule(key=st.sampled_from(KEYS))
    def opt_out(self, key: str) -> None:
        address = self.models[key].address
        self.barred.add(address)
        self.conn.execute(
            "insert into email_suppressions values (%s, 'manual', 'all', 'test') on conflict do nothing", (address,)
        )

    @rule(key=st.sampled_from(KEYS))
    def opt_in(self, key: str) -> None:
        address = self.models[key].address
        self.barred.discard(address)
        self.conn.execute("delete from email_suppressions where address_norm = %s", (address,))

    @precondition(lambda self: any(model.state == "uncertain" for model in self.models.values()))
    @rule(key=st.sampled_from(KEYS), again=st.booleans())
    def decide(self, key: str, again: bool) -> None:
        model = self.models[key]
        ids = [model.id] if model.id else []
        changed = outbox.decide(self.conn, ids, send_again=again, actor="mara@local")
        assert changed == (model.state == "uncertain")
        if changed:
            model.state = "queued" if again else "failed"
            model.decisions += again

    @invariant()
    def nobody_is_sent_a_message_twice_unless_a_person_says_so(self) -> None:
        for model in getattr(self, "models", {}).values():
            assert model.taken <= 1 + model.decisions

    @invariant()
    def the_ledger_says_what_happened(self) -> None:
        rows = self.conn.execute("select dedupe_key, state, attempts from outbox_messages").fetchall()
        told = {key: (model.state, model.attempts) for key, model in getattr(self, "models", {}).items() if model.id}
        assert {key: (state, attempts) for key, state, attempts in rows} == told


@pytest.mark.slow
@pytest.mark.thorough
def test_no_order_of_events_sends_a_message_twice(conn: Connection) -> None:
    Outbox.conn = conn
    run_state_machine_as_test(Outbox, settings=machine_settings(60, derandomize=False, print_blob=False))


class Careless(Outbox):
    """A sweep that queues again what a dead sender left in flight."""

    @rule()
    def senders_die(self) -> None:
        self.conn.execute("update outbox_messages set state = 'queued', lease_until = null where state = 'sending'")
        for model in self.models.values():
            if model.state == "sending":
                model.state = "queued"


def test_the_property_breaks_where_what_a_dead_sender_left_is_sent_again(conn: Connection) -> None:
    Careless.conn = conn
    machine = Careless()
    machine.begin()
    machine.put("a")
    machine.claim("a", taken=True)
    machine.senders_die()
    machine.put("a")
    machine.claim("a", taken=True)
    with pytest.raises(AssertionError):
        machine.nobody_is_sent_a_message_twice_unless_a_person_says_so()
