"""The backend on Postgres. All methods block; call them in threads.

No call is repeated. After a lost connection, the user learns that the result of the action is unknown.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from jobdeck.core import connect, registry
from jobdeck.core.errors import ConfigurationError, DatabaseUnreachable, JobdeckError, Refused
from jobdeck.core.model import Filter, Status
from jobdeck.core.plugins import PageAction
from jobdeck.core.postgres.database import database_label
from jobdeck.core.queue import operator, service
from jobdeck.core.queue.calls import actor
from jobdeck.core.queue.operators.flows import cancel as cancel_flow
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read import reports
from jobdeck.core.read.batch import combine
from jobdeck.core.read.operators import reach
from jobdeck.core.read.operators.notes import open_notes
from jobdeck.core.read.pages import flows
from jobdeck.core.read.pages.outlook import outlook
from jobdeck.core.redact import safe_error
from jobdeck.core.schema import open_checked
from jobdeck.core.worker.runs.preview import slots_of
from jobdeck.tui.backend.parts import Access, Bulks, Creating
from jobdeck.tui.backend.protocol import PAGE, EmbeddedWorker, Session, View, due_among
from jobdeck.tui.format import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Job, Json, Processing
    from jobdeck.core.plugins import Found, Page, Recipients
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.queue.operators.flows import FlowCancelled
    from jobdeck.core.read.batch import Query
    from jobdeck.core.read.operators.notes import Note
    from jobdeck.core.read.pages.flows import FlowTree
    from jobdeck.core.read.report_types import ErrorReport, JobDetail, Permissions, Snapshot
    from jobdeck.core.read.report_types import Page as JobPage
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings
    from jobdeck.core.worker.oneshot import CycleResult
    from jobdeck.core.worker.worker import CycleProgress, Worker
    from jobdeck.tui.backend.protocol import Due, Request, Verb


SPARE_CONNECTIONS = 6
"""Connections besides those of the worker's handlers: for the worker itself, a cycle, and the dashboard."""


class LiveBackend(Access):
    """All reads and actions of the dashboard. Methods raise `JobdeckError`.

    `open_database` is entered at the first read and left by `close`.

    `label` names the database instead of its address.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read_only: bool = False,
        worker: bool = False,
        label: str = "",
        open_database: Callable[..., AbstractContextManager[Database]] = connect.open_database,
    ) -> None:
        self._read_only = read_only
        self._label = label
        self.settings = settings
        self._autostart = worker
        self._open_database = open_database
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self.database: Database | None = None
        self._registry: Registry | None = None
        self._session: Session | None = None
        self._judged: tuple[Filter, str | None] = Filter(), None
        """The filter that was read last, and why it may not be read, if so."""
        self._worker: Worker | None = None
        self._closed = False
        self.creating, self.bulk = Creating(self), Bulks(self)

    @property
    def label(self) -> str:
        with suppress(ConfigurationError):  # `view` reports it
            return self._label or database_label(self.settings)
        return ""

    def view(self, request: Request) -> View:
        with self._opening:
            session, snapshot = (self._session, None) if self._session else self._open(request)
        if snapshot is None:
            with self.connection() as conn:
                if not self._is_judged(request):
                    self._judged = request.filter, reach.refusal(request.filter).run(conn)
                snapshot = self._listing(request).run(conn)
        return View(session, snapshot, self.worker())

    def _is_judged(self, request: Request) -> bool:
        """Whether the list of the request may be read: its filter would read few jobs, or was judged before."""
        listed = not (request.glance or request.group)
        return not listed or request.filter == self._judged[0] or not reach.refusal(request.filter).statements

    def _listing(self, request: Request) -> Query[Snapshot]:
        """What the screen shows, and how far its filter would reach at the next reading, in one round trip."""
        if request.glance:
            return read_jobs.glance()
        judged, refusal = self._judged
        listed = read_jobs.snapshot(
            request.filter, sort=request.sort, descending=request.descending, limit=request.limit,
            refusal=refusal if request.filter == judged and not request.group else None,
            group=request.group, production=self.settings.is_production,
        )  # fmt: skip

        def read(snapshot: Snapshot, refusal: str | None) -> Snapshot:
            self._judged = request.filter, refusal
            return snapshot

        return listed if request.group else combine(listed, reach.refusal(request.filter), read=read)

    def detail(self, job_id: UUID) -> JobDetail | None:
        return self.read(read_jobs.detail, job_id)

    def first_jobs(self, wanted: Filter, limit: int) -> JobPage:
        """The first jobs of a filter, in the order of its list.

        Raises:
            UsageError: the filter would read too many jobs.
        """
        with self.connection() as conn:
            reach.check(conn, wanted)
            return read_jobs.page(wanted, limit=limit).run(conn)

    def recipients(self, job_id: UUID) -> Recipients | None:
        with self.connection() as conn:
            return reports.recipients(conn, job_id)

    def flow(self, job_id: UUID) -> FlowTree | None:
        return self.read(flows.flow, job_id)

    def notes(self) -> Sequence[Note]:
        return self.read(open_notes)

    def timeouts(self) -> Mapping[str, float]:
        return {known.task_type: known.timeout for known in self._registry or ()}

    def errors(self, canaries: Sequence[int]) -> ErrorReport:
        with self.connection() as conn:
            answers = tuple(operator.canary_answer(conn, canary) for canary in canaries)
            return replace(reports.errors().run(conn), canaries=answers)

    def table(self, page: Page, wanted: str) -> Sequence[Sequence[str]]:
        with self.connection() as conn:
            return page.query(conn, wanted) if page.search else page.query(conn)

    def search_table(self, page: Page, text: str) -> Sequence[Found]:
        with self.connection("to search") as conn:
            return page.search.find(conn, text) if page.search else ()

    def act_on_row(self, page: Page, action: str, row: Sequence[str], answers: Mapping[str, str]) -> str:
        with self.connection(f"to {action}") as conn:
            found = page.actions[action]
            return found.run(conn, row, answers) if isinstance(found, PageAction) else found(conn, row)

    def reveal(self, job_id: UUID) -> None:
        with self.connection("to reveal") as conn:
            operator.reveal(conn, job_id, actor=self.actor)

    def check_payload(self, task_type: str, payload: Json) -> None:
        self.known.require(task_type).parse(payload)

    def retry_with(self, job: Job, payload: Json) -> ActionResult:
        with self.connection("to retry with another payload") as conn:
            return service.retry_with(conn, self.known, job, payload, settings=self.settings, actor=self.actor)

    def cleanup(self, ids: Sequence[UUID] | None) -> list[ActionResult]:
        with self.connection("to clean up") as conn:
            return operator.cleanup(
                conn, actor=self.actor, older_than=operator.STUCK_AFTER, dry_run=ids is None, ids=ids
            )

    def purge(self, *, dry_run: bool) -> int:
        with self.connection("to purge") as conn:
            return operator.purge(conn, actor=self.actor, older_than=operator.KEPT_FOR, dry_run=dry_run)

    def act(self, verb: Verb, jobs: Sequence[Job], reason: str | None = None) -> list[ActionResult]:
        versions, actor = {job.id: job.version for job in jobs}, self.actor
        ids = list(versions)
        with self.connection(f"to {words(verb)} {len(jobs)} jobs") as conn:
            if verb == "run-again":
                types = self.known
                return service.run_again(
                    conn, types, ids, settings=self.settings, actor=actor, versions=versions, reason=reason
                )
            if verb == "restore":
                return operator.restore(conn, ids, actor=actor, reason=reason)
            change = {"retry": operator.retry, "cancel": operator.cancel, "delete": operator.delete}[verb]
            return change(conn, ids, actor=actor, versions=versions, reason=reason)

    def cancel_flow(self, flow_id: UUID, reason: str | None) -> FlowCancelled:
        with self.connection("to cancel a flow") as conn:
            return cancel_flow(conn, flow_id, actor=self.actor, reason=reason)

    def due(self) -> Due:
        with self.connection() as conn:
            pending = read_jobs.snapshot(Filter(status=Status.PENDING), sort="natural", descending=True, limit=PAGE)
            found = due_among(pending.run(conn), self.known.names)
            slots = slots_of(self.known, self.settings)
            return replace(found, ahead=outlook(self.known.names, slots=slots).run(conn))

    def pause(
        self, reason: str | None, until: timedelta | datetime | None, task_type: str | None = None,
        queue: str | None = None,
    ) -> Processing:  # fmt: skip
        work = partial(operator.pause, reason=reason, resume_at=until, task_type=task_type, queue=queue)
        return self.change("pause processing", work)

    def resume(self, task_type: str | None = None, queue: str | None = None) -> Processing:
        return self.change("resume processing", partial(operator.resume, task_type=task_type, queue=queue))

    def run_cycle(self, on_progress: Callable[[str], None]) -> CycleResult:
        worker = self._new_worker(mode="cycle", source="manual")

        def report(progress: CycleProgress) -> None:
            on_progress(
                f"{progress.done} of {progress.claimed} done, {progress.succeeded} succeeded, {progress.failed} failed"
            )

        with self.translated("to run a cycle"):
            return worker.run_cycle(5, on_progress=report)

    def start_worker(self) -> None:
        with self._lock:
            if self._worker is None and not self._closed:
                worker = self._new_worker(mode="embedded", source="embedded")
                with self.translated("to start the worker"):
                    worker.start()
                self._worker = worker

    def stop_worker(self, timeout: float | None) -> bool:
        worker = self._worker
        if worker is None:
            return True
        finished = worker.drain(timeout)
        with self._lock:
            self._worker = None
        return finished

    def worker(self) -> EmbeddedWorker:
        worker = self._worker
        if worker is None:
            return EmbeddedWorker()
        status = worker.status
        state: Literal["running", "draining"] = "draining" if status.state == "draining" else "running"
        return EmbeddedWorker(state, status.running, worker.worker_id)

    def close(self) -> None:
        """Stops the worker, then closes the database.

        Waits for an embedded server that is starting, so that it does not keep running. Does not wait for a hanging
        connection to another server.
        """
        with self._lock:
            self._closed = True
        self.stop_worker(None)
        if self._opening.acquire(blocking=self.settings.database_url is None):
            try:
                self._stack.close()
            finally:
                self._opening.release()

    @property
    def actor(self) -> str:
        return self._session.actor if self._session else actor()

    def _open(self, request: Request) -> tuple[Session, Snapshot | None]:
        """Opens the database, and answers the request in the same round trip if its filter needs no judging."""
        if self._closed:
            raise DatabaseUnreachable("The dashboard is closing.")
        first = request if self._is_judged(request) else replace(request, glance=True)
        with self.translated("to connect"):
            if self.database is None:
                self.database = self._stack.enter_context(
                    self._open_database(
                        self.settings,
                        application_name="jobdeck dashboard",
                        read_only=self._read_only,
                        max_size=self.settings.concurrency + SPARE_CONNECTIONS,
                        connect=False,
                        embedded=True,
                    )
                )
                # Task types are loaded while a far server answers.
                self.database.connect_ahead()
            if self._registry is None:
                self._registry = registry.load(self.settings.handler_modules)
            permissions, snapshot = open_checked(
                self.database, combine(read_jobs.permissions(), self._listing(first), read=_both)
            )
        embedded = self.settings.database_url is None
        if (embedded or self._autostart) and permissions.work and not self._read_only:
            self.start_worker()
        self._session = Session(
            self._label or self.database.label, actor(), permissions, tuple(self._registry.names), embedded
        )
        return self._session, snapshot if first is request else None

    def _new_worker(self, *, mode: str, source: str) -> Worker:
        if self.database is None or self._registry is None:
            raise DatabaseUnreachable("Not connected yet. Try again when the list is shown.")
        from jobdeck.core.worker.worker import Worker  # noqa: PLC0415 -- slow, not needed for the first figures

        return Worker(self.database, self._registry, self.settings, mode=mode, source=source)

    @property
    def known(self) -> Registry:
        if self._registry is None:
            raise DatabaseUnreachable("Not connected to the database yet.")
        return self._registry

    @contextmanager
    def connection(self, doing: str = "to read") -> Iterator[Any]:
        if self.database is None:
            raise DatabaseUnreachable("Not connected to the database yet.")
        with self.translated(doing), self.database.connection() as conn:
            yield conn

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turns errors of the driver into `JobdeckError`. `doing` completes the sentence: "to read"."""
        try:
            yield
        except JobdeckError:
            raise
        except psycopg.errors.InsufficientPrivilege as error:
            raise Refused(f"The database refused {doing}: {safe_error(str(error), 200)}") from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise DatabaseUnreachable(
                f"The connection was lost while trying {doing}: {safe_error(str(error), 200)}"
            ) from error
        except psycopg.Error as error:
            raise Refused(
                f"The database could not {doing.removeprefix('to ')}: {safe_error(str(error), 200)}"
            ) from error


def _both(permissions: Permissions, snapshot: Snapshot) -> tuple[Permissions, Snapshot]:
    return permissions, snapshot
