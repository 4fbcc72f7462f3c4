"""Flows: jobs that wait for each other and are enqueued together, and what a run does with its own flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, overload
from uuid import UUID

from jobdeck.core.errors import Refused
from jobdeck.core.queue.options import NOTHING
from jobdeck.core.registry.handles import Handle
from jobdeck.core.times import with_zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from typing import Unpack

    from jobdeck.core.model import Json, NewJob, Ticket
    from jobdeck.core.registry import Payload
    from jobdeck.core.registry.handles import P

    Blocker: TypeAlias = "Member | Ticket | UUID | str"

Needs = Literal["success", "end", "failure"]
"""What a member needs of the jobs that it waits for: the success of all, the end of all, or a failure among them."""
_LONGEST: Final = 10
"""How many members of a circle a sentence names."""
SPAN: Final = "flow"
"""Names the span of the enqueue of a flow, in the place of a task type."""


@dataclass(frozen=True, slots=True)
class Member:
    """A job of a flow, as `Flow.add` returns it. `after` are names of members, `after_jobs` the ids of other jobs."""

    name: str
    task_type: str
    payload: Payload | Json | None = None
    after: tuple[str, ...] = ()
    after_jobs: tuple[UUID, ...] = ()
    needs: Needs = "success"
    run_at: datetime | None = None
    priority: int | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    dedupe_key: str | None = None
    concurrency_key: str | None = None
    is_callback: bool = False
    is_final: bool = False

    def document(self, new: NewJob, after: Iterable[str]) -> Json:
        """The member as `job_flow_create` reads it; `new` has its validated payload and the values of its type."""
        made: Json = {
            "name": self.name,
            "task_type": self.task_type,
            "payload": new.payload,
            "run_at": self.run_at and self.run_at.isoformat(),
            "max_attempts": new.max_attempts,
            "timeout": new.timeout,
            "priority": self.priority,
            "dedupe_key": self.dedupe_key,
            "concurrency_key": new.concurrency_key,
            "after": list(after),
            "after_jobs": [str(job_id) for job_id in self.after_jobs],
            "needs": self.needs,
            "final": self.is_final or None,
        }
        return {key: value for key, value in made.items() if value not in (None, [])}


class MemberOptions(TypedDict, total=False):
    """The options of a member; `Flow.add` says what each means."""

    after: Blocker | Iterable[Blocker]
    needs: Needs
    run_at: datetime | None
    priority: int | None
    max_attempts: int | None
    timeout: float | None
    dedupe_key: str | None
    concurrency_key: str | None


def _name(task_type: str | Handle[Any]) -> str:
    return task_type.name if isinstance(task_type, Handle) else task_type


@dataclass(slots=True)
class Flow:
    """Jobs that are enqueued together, all or none, by `jobdeck.enqueue_flow`; each may wait for several others.

    Names are shown to people, in lists and in sentences, so they should hold no personal data.
    """

    name: str = "flow"
    members: list[Member] = field(default_factory=list, init=False)
    _names: set[str] = field(default_factory=set, init=False, repr=False)

    @overload
    def add(
        self, name: str, task_type: Handle[P], payload: P | None = None, **options: Unpack[MemberOptions]
    ) -> Member: ...
    @overload
    def add(
        self, name: str, task_type: str, payload: Payload | Json | None = None, **options: Unpack[MemberOptions]
    ) -> Member: ...
    def add(  # noqa: PLR0913 -- one keyword per option of a job
        self,
        name: str,
        task_type: str | Handle[Any],
        payload: Payload | Json | None = None,
        *,
        after: Blocker | Iterable[Blocker] = (),
        needs: Needs = "success",
        run_at: datetime | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        timeout: float | None = None,
        dedupe_key: str | None = None,
        concurrency_key: str | None = None,
    ) -> Member:
        """Adds a job, and returns the member that others name in `after`.

        Args:
            name: its name, which no other member of the flow has.
            task_type: the handle of a type, or its name if this process has imported its module.
            payload: the type's payload model, or its JSON.
            after: whom it waits for: members or their names, also of members that are added later, and jobs that are
                in the queue, by their `Ticket` or id.
            needs: "success": it runs once all of them have succeeded, and is cancelled as soon as one of them fails for
                good, is cancelled or is deleted. "end": it runs once all of them have ended in any way. "failure": it
                runs once all have ended and one did not succeed; if all succeeded, it is cancelled as not needed.
            run_at: when it is due at the earliest, with a time zone; None for now.
            priority: from -100 to 100; higher runs first. None for the type's own value, or 0.
            max_attempts: how often a failing job is tried; None for the type's own value.
            timeout: how many seconds a run of this member may take; None for the timeout of its type.
            dedupe_key: if a pending or running job has this key, the whole flow is refused.
            concurrency_key: jobs with the same key never run at the same time; None for the type's own key.

        Raises:
            Refused: another member has this name, or the time has no time zone.
        """
        names, ids = _blockers(after)
        with_zone(run_at, f"run_at of the member {name}")
        return self._keep(
            Member(
                name,
                _name(task_type),
                payload,
                names,
                ids,
                needs,
                run_at,
                priority,
                max_attempts,
                timeout,
                dedupe_key,
                concurrency_key,
            )
        )

    @overload
    def on_success(self, task_type: Handle[P], payload: P | None = None, *, name: str = ...) -> Member: ...
    @overload
    def on_success(self, task_type: str, payload: Payload | Json | None = None, *, name: str = ...) -> Member: ...
    def on_success(
        self, task_type: str | Handle[Any], payload: Payload | Json | None = None, *, name: str = "on success"
    ) -> Member:
        """Adds a job that runs once all members that are no callbacks have succeeded. Raises as `add`."""
        return self._callback(name, task_type, payload, "success")

    @overload
    def on_failure(
        self, task_type: Handle[P], payload: P | None = None, *, name: str = ..., final: bool = ...
    ) -> Member: ...
    @overload
    def on_failure(
        self, task_type: str, payload: Payload | Json | None = None, *, name: str = ..., final: bool = ...
    ) -> Member: ...
    def on_failure(
        self,
        task_type: str | Handle[Any],
        payload: Payload | Json | None = None,
        *,
        name: str = "on failure",
        final: bool = False,
    ) -> Member:
        """Adds a job that runs once all members that are no callbacks have ended, and one did not succeed.

        If all of them succeed, it is cancelled as not needed. With `final`, no member for whose failure it waited can
        be retried or restored once it has begun, so that nothing is done again that it undoes. Raises as `add`.
        """
        return self._callback(name, task_type, payload, "failure", final=final)

    @overload
    def on_end(self, task_type: Handle[P], payload: P | None = None, *, name: str = ...) -> Member: ...
    @overload
    def on_end(self, task_type: str, payload: Payload | Json | None = None, *, name: str = ...) -> Member: ...
    def on_end(
        self, task_type: str | Handle[Any], payload: Payload | Json | None = None, *, name: str = "on end"
    ) -> Member:
        """Adds a job that runs once all members that are no callbacks have ended in any way. Raises as `add`."""
        return self._callback(name, task_type, payload, "end")

    def ordered(self) -> list[tuple[Member, tuple[str, ...]]]:
        """The members and whom each waits for, each after those that it waits for.

        Raises:
            Refused: there are none; a member names one that is not there; or members wait for each other in a circle.
        """
        if not self.members:
            raise Refused(f"The flow has no members. {NOTHING}")
        work = tuple(member.name for member in self.members if not member.is_callback)
        if not work:
            raise Refused(f"The flow has callbacks alone, which wait for nothing. {NOTHING}")
        waits = {member.name: work if member.is_callback else member.after for member in self.members}
        for name, after in waits.items():
            unknown = next((other for other in after if other not in waits), None)
            if unknown is not None:
                raise Refused(f"The member {name} waits for {unknown}, which is no member of this flow. {NOTHING}")
        known = {member.name: member for member in self.members}
        return [(known[name], waits[name]) for name in _in_order(waits)]

    def _callback(
        self,
        name: str,
        task_type: str | Handle[Any],
        payload: Payload | Json | None,
        needs: Needs,
        *,
        final: bool = False,
    ) -> Member:
        return self._keep(Member(name, _name(task_type), payload, needs=needs, is_callback=True, is_final=final))

    def _keep(self, member: Member) -> Member:
        if member.name in self._names:
            raise Refused(f"Two members are named {member.name}. Give each a name of its own.")
        self._names.add(member.name)
        self.members.append(member)
        return member


class FlowTicket(NamedTuple):
    """An enqueued flow: its id, and the ids of its jobs by the names of the members."""

    flow_id: UUID
    jobs: Mapping[str, UUID]


@dataclass(frozen=True, slots=True)
class BlockerResult:
    """How a job ended that this one waited for.

    `name` is that of the member, or the id of a job outside the flow. `outcome` is `succeeded`, `partial`, `failed`,
    `cancelled` or `deleted`. `output` is what the handler returned, None unless it succeeded; `error` is the last
    failure. Both are None when the history has been pruned since.
    """

    name: str
    job_id: UUID
    task_type: str | None
    outcome: Literal["succeeded", "partial", "failed", "cancelled", "deleted"]
    output: Json | None
    error: str | None

    @property
    def ok(self) -> bool:
        return self.outcome in {"succeeded", "partial"}


def _in_order(waits: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The names in their order if each comes after those that it waits for, else in an order that does."""
    seen: set[str] = set()
    for name, after in waits.items():
        if not seen.issuperset(after):
            break
        seen.add(name)
    else:
        return list(waits)
    try:
        return list(TopologicalSorter(waits).static_order())
    except CycleError as error:
        circle: list[str] = error.args[1]
        if len(circle) == 2:
            raise Refused(f"The member {circle[0]} waits for itself. {NOTHING}") from None
        # The sorter names each before the one that waits for it.
        path = " → ".join(circle[::-1][: _LONGEST + 1])
        more = "" if len(circle) <= _LONGEST + 1 else " → …"
        raise Refused(
            f"Members of the flow wait for each other in a circle, so that none can ever run: {path}{more}. {NOTHING}"
        ) from None


def _blockers(after: Any) -> tuple[tuple[str, ...], tuple[UUID, ...]]:
    given = [after] if isinstance(after, str | UUID | Member) or hasattr(after, "job_id") else list(after)
    names: list[str] = []
    ids: list[UUID] = []
    for one in given:
        if isinstance(one, UUID):
            ids.append(one)
        elif isinstance(one, str):
            names.append(one)
        elif isinstance(one, Member):
            names.append(one.name)
        elif isinstance(getattr(one, "job_id", None), UUID):
            ids.append(one.job_id)
        else:
            raise Refused(
                f"A member cannot wait for a value of the class {type(one).__qualname__}. Pass members, their names, "
                "tickets or ids of jobs."
            )
    return tuple(dict.fromkeys(names)), tuple(dict.fromkeys(ids))
