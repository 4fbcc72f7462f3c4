"""Conversations, release forms and archived messages for a test, and runs of the jobs that tell people of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest

from jobdeck.core import registry
from jobdeck.core.model import NewJob
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.queue import producer
from jobdeck.core.registry import Continue, Done
from tests.core.handlers.killing import Workers
from tests.core.handlers.mail_world import MailWorld, worker_settings
from tests.core.programme.outbox_support import let_leases_end, let_time_pass
from tests.support.context import FakeContext
from tests.support.people import make_groups
from tests.support.queue import ago
from tests.support.waiting import until
from tests.support.working import a_worker

Json = dict[str, Any]

NUMBER = "+15005550110"
MARKS = ("zz", "Zz", "@example.org", "50055501", "secret words")
"""What stands in names, addresses, numbers and texts of these tests, and must stand nowhere else."""


class Crash(BaseException):
    """The process ends here: nothing after this is carried out, and no handler can catch it."""


class NoticeWorld(MailWorld):
    """Adds what people have to be told of, and time that passes for it."""

    def conversation(self, *members: UUID, kind: str = "group", joined: str = "30 days") -> UUID:
        conversation: UUID = self.conn.insert("conversations", type=kind)
        for member in members:
            self.join(conversation, member, joined=joined)
        return conversation

    def join(self, conversation: UUID, member: UUID, *, joined: str = "30 days") -> None:
        self.conn.insert("conversation_members", conversation_id=conversation, user_id=member, joined_at=ago(joined))

    def message(
        self,
        conversation: UUID,
        sender: UUID,
        *,
        age: str = "1 hour",
        metadata: Json | None = None,
        urgent: bool = False,
    ) -> UUID:
        message: UUID = self.conn.insert(
            "messages", conversation_id=conversation, sender_id=sender, body="secret words", metadata=metadata or {},
            high_priority=urgent, created_at=ago(age),
        )  # fmt: skip
        return message

    def written_to(self, reader: UUID, count: int = 1, *, age: str = "1 hour") -> UUID:
        """A conversation in which somebody has written to a person."""
        sender = self.profile()
        conversation = self.conversation(reader, sender)
        for _ in range(count):
            self.message(conversation, sender, age=age)
        return conversation

    def reader(self, *, role: str = "coach", texts: bool = False, count: int = 1, **columns: Any) -> UUID:
        """Somebody with unread messages."""
        wants: Json = {"sms_notifications_enabled": True, "instant_sms_enabled": True, "mobile_number": NUMBER}
        person = self.profile(role=role, **((wants if texts else {}) | columns))
        self.written_to(person, count)
        return person

    def read_everything(self, reader: UUID) -> None:
        self.conn.execute(
            "insert into message_read_receipts (message_id, user_id) select m.id, b.user_id from messages m "
            "join conversation_members b using (conversation_id) where b.user_id = %s on conflict do nothing",
            (reader,),
        )

    def archive(self, message: UUID, person: UUID, *, at: str | None = None) -> None:
        self.conn.insert("message_user_state", user_id=person, message_id=message, archived_at=at or "now")

    def address(self, person: UUID) -> str:
        return str(self.conn.row("select email from profiles where id = %s", person)["email"])

    def form(self, address: str | None = "zzparent@example.org", *, age: str = "5 hours", **columns: Any) -> UUID:
        """A release form of a minor with this parent's address; columns of the competitor begin with `c_`."""
        minor = {name.removeprefix("c_"): value for name, value in columns.items() if name.startswith("c_")}
        competitor = self.competitor(parent_email=address, **minor)
        own = {name: value for name, value in columns.items() if not name.startswith("c_")}
        usual = {"provider": "zoho", "template_kind": "minor", "request_id": str(uuid4()), "created_at": ago(age)}
        form: UUID = self.conn.insert("agreements", competitor_id=competitor, **(usual | own))
        return form

    def probe_of(self, form: UUID) -> Json:
        """What is known of a form's probe, without the long names."""
        found = self.conn.row("select * from agreements where id = %s", form)
        start = "recipient_email_verification_"
        return {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}

    def run_job(self, handler: ModuleType, context: FakeContext | None = None, /, **payload: Any) -> Done | Continue:
        """One run of a job; the checkpoint of a `Continue` stays with the context."""
        context = context or self.context()
        context.job = context.job._replace(task_type=handler.__name__.rsplit(".", 1)[-1])
        try:
            outcome: Done | Continue = handler.run(handler.Params.model_validate(payload), context)
        finally:
            context.close()
        if not isinstance(outcome, Done):
            context.save_checkpoint(outcome.checkpoint)
        return outcome

    def output(self, handler: ModuleType, context: FakeContext | None = None, /, **payload: Any) -> Json:
        """The output of one run, which is to say nothing that is not to be said."""
        found = self.run_job(handler, context, **payload).output
        assert marks_in(json.dumps(found, ensure_ascii=False)) == []
        return found

    def later(self, interval: str) -> None:
        """Lets time pass for messages, notices and forms."""
        let_time_pass(self.conn, interval)
        for statement in (
            "update messages set created_at = created_at - %s::interval",
            "update profiles set last_unread_alert_at = last_unread_alert_at - %s::interval",
            "update conversation_members set joined_at = joined_at - %s::interval",
            "update provider_rates set closed_until = closed_until - %s::interval",
        ):
            self.conn.execute(statement.encode(), (interval,))
        self.conn.execute(
            """
            update agreements set
                recipient_email_verification_next_at = recipient_email_verification_next_at - %(by)s::interval,
                recipient_email_verification_sent_at = recipient_email_verification_sent_at - %(by)s::interval
            """,
            {"by": interval},
        )

    def leases_end(self) -> None:
        let_leases_end(self.conn)

    def states(self) -> dict[str, int]:
        """How many messages of the outbox are in which state."""
        return dict(self.conn.execute("select state, count(*) from outbox_messages group by 1").fetchall())

    def left_out(self) -> list[tuple[str | None, str]]:
        """Channel and reason of each person that was left out, in order."""
        return self.conn.execute("select channel, reason from outbox_left_out order by id").fetchall()

    def apply_events(self) -> None:
        """Brings all delivery events that SendGrid has, and applies them."""
        from jobdeck.core.programme.vendors import email_wire  # noqa: PLC0415 -- few tests need it

        events, _ = email_wire.read(json.dumps(self.sandbox.sendgrid.take_events()).encode())
        outbox.record_events(self.conn, events)
        outbox.apply_events(self.conn)

    @contextmanager
    def as_worker(self) -> Iterator[None]:
        """Only with the rights that a worker's role has."""
        make_groups(self.conn)
        self.conn.execute("set role job_worker")
        yield
        self.conn.execute("reset role")

    @contextmanager
    def changes_nothing(self) -> Iterator[None]:
        """Fails when any row of any table changes, or a provider is asked to do anything."""
        before, asked = self.everything(), len(self.sandbox.requests)
        yield
        assert self.everything() == before
        assert [seen for seen in self.sandbox.requests[asked:] if seen.mutating] == []


def marks_in(text: str) -> list[str]:
    """The marks in a text, but for masked addresses."""
    return [mark for mark in MARKS if mark in text.replace("…@example.org", "")]


def crash_at(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, *, after: bool) -> Callable[[], None]:
    """Lets the process end before or after the first call of a function; returns what makes it whole again."""
    original = getattr(target, name)

    def crashing(*args: Any, **kwargs: Any) -> Any:
        if after:
            original(*args, **kwargs)
        raise Crash(name)

    monkeypatch.setattr(target, name, crashing)
    return lambda: monkeypatch.setattr(target, name, original)


def kill_at(vendor: Any, workers: Workers, number: int, moment: Literal["before", "after"]) -> Callable[[], bool]:
    """Kills the worker while a vendor has its request of this number: before or after it is taken."""
    original = vendor.answer
    count = iter(range(1, 1_000_000))
    killed: list[int] = []

    def answer(*args: Any) -> Any:
        if next(count) != number:
            return original(*args)
        reply: Any = (503, {}, {})
        if moment == "after":
            reply = original(*args)
        workers.kill()
        killed.append(number)
        return reply

    vendor.answer = answer
    return lambda: bool(killed)


def work_through_a_kill(
    world: NoticeWorld, workers: Workers, new: NewJob, vendor: Any, number: int, moment: Literal["before", "after"]
) -> list[str]:
    """One job, whose worker is killed at a request and which another one finishes; returns how its runs ended."""
    job = producer.enqueue(world.conn, new, actor="mara@local").job_id
    killed = kill_at(vendor, workers, number, moment)
    workers.start()
    until(killed, "the request")
    world.leases_end()
    workers.start()
    until(lambda: world.conn.rows("select id from job_queue where id = %s", job) == [], "the end of the job")
    runs = world.conn.rows("select outcome from job_runs where job_id = %s order by run_token", job)
    return [run["outcome"] for run in runs]


def run_by_worker(world: NoticeWorld, url: str, task_type: str, payload: Json, **settings: Any) -> str:
    """One job as a worker runs it; returns how its run was recorded."""
    job = producer.enqueue(world.conn, NewJob(task_type, payload, max_attempts=1), actor="mara@local").job_id
    known = registry.load()
    with a_worker(url, known.require(task_type), settings=worker_settings(world.sandbox, **settings)) as worker:
        worker.run_cycle()
    return str(world.conn.row("select outcome from job_runs where job_id = %s", job)["outcome"])


def named(world: NoticeWorld, *texts: str) -> list[str]:
    """The marks of people and messages that stand in these texts, or in any table where they must not stand.

    The ids of messages are left out: a mark may occur among their random letters.
    """
    kept = world.conn.rows(
        """
        select r::text as line from job_runs r union all select q::text from job_queue q
        union all select w::text from job_worker_runs w union all select a::text from job_audit a
        union all select l::text from alert_log l union all select o::text from outbox_left_out o
        union all select concat_ws(' ', m.error_class, m.error_code, m.error_text) from outbox_messages m
        union all select concat_ws(' ', f.recipient_email_verification_error,
            f.recipient_email_verification_skip_reason) from agreements f
        """
    )
    written = "\n".join([*texts, *(row["line"] for row in kept)])
    for message in [*world.sandbox.sendgrid.accepted.all, *world.sandbox.twilio.accepted.all]:
        written = written.replace(message.message_id, "")
    return marks_in(written)
