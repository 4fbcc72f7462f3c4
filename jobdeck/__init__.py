"""Jobdeck: a Postgres job queue, its worker and its terminal dashboard.

What an application imports is here; every name is imported when it is first used, so `import jobdeck` costs nothing.

    import jobdeck

    class Invoice(jobdeck.Payload):
        customer_id: int

    @jobdeck.job("send_invoice", payload=Invoice, max_attempts=3)
    def send_invoice(params: Invoice, ctx: jobdeck.JobContext) -> jobdeck.Done:
        ctx.log.info("sending")
        return jobdeck.Done({"sent": 1})

    with psycopg.connect(...) as conn:                    # the application's own transaction
        conn.execute("insert into invoices …")
        send_invoice.enqueue(conn, Invoice(customer_id=7))

`jobdeck worker --handlers MODULE` runs it. A program of your own runs a worker like this:

    settings = jobdeck.load_settings(handlers="billing.jobs")
    with jobdeck.open_database(settings, application_name="billing", max_size=settings.concurrency + 2) as database:
        jobdeck.Worker(database, jobdeck.load_types(settings.handler_modules), settings).run_until_idle()

Stable, and changed in a major release alone after a release that warns (docs/versioning.md):
`job`, `task`, `Task`, `Payload`, `JobContext`, `AsyncJobContext`, `Done`, `Continue`, `enqueue`, `enqueue_many`,
`aenqueue`, `aenqueue_many`, `new_job`, `NewJob`, `Ticket`, `result`, `aresult`, `Result`, `Cron`, `Every`, `schedule`,
the errors, `__version__`.
Provisional, and changed in a minor release with a line in the changelog: `Worker`, `open_database`, `load_settings`,
`load_types`, `middleware`, `on_failure`, `FailedJob`, `jobdeck.testing`, `jobdeck.django`, and flows: `Flow`,
`enqueue_flow`, `aenqueue_flow`, `FlowTicket`, `flow_results`, `extend_flow`, `aflow_results`, `aextend_flow`,
`BlockerResult`. Every other module, `jobdeck.core` and `jobdeck.tui` included, is internal.
In a checkout `jobdeck/core` and `jobdeck/tui` are links to the folders `core/` and `tui/`.
"""

# Type checkers take a variable of this name for true; the module typing would be half of the time of the import.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from jobdeck.core.connect import open_database
    from jobdeck.core.errors import (
        Cancelled,
        ConfigurationError,
        DatabaseUnreachable,
        EmbeddedPostgresError,
        EndlessDrain,
        Interrupted,
        InvalidPayload,
        JobdeckError,
        JobFailure,
        JobNotFound,
        LeaseLost,
        Locked,
        MissingExtra,
        PermanentError,
        Refused,
        ResultTimeout,
        RetryLater,
        SchemaMismatch,
        Snooze,
        StillRunning,
        TimedOut,
        UnknownTaskType,
        Unreadable,
        UsageError,
        VendorError,
    )
    from jobdeck.core.model import ClaimedJob, NewJob, Ticket
    from jobdeck.core.queue.producers.api import aenqueue, aenqueue_many, enqueue, enqueue_many, new_job
    from jobdeck.core.queue.producers.flow_calls import (
        aenqueue_flow,
        aextend_flow,
        aflow_results,
        enqueue_flow,
        extend_flow,
        flow_results,
    )
    from jobdeck.core.queue.producers.flows import BlockerResult, Flow, FlowTicket
    from jobdeck.core.queue.producers.results import Result, aresult, result
    from jobdeck.core.queue.producers.series import schedule
    from jobdeck.core.queue.producers.tasks import Task, job, task
    from jobdeck.core.registry import AsyncJobContext, Continue, Done, JobContext, Payload
    from jobdeck.core.registry import load as load_types
    from jobdeck.core.registry.around import FailedJob, middleware, on_failure
    from jobdeck.core.schedules import Cron, Every
    from jobdeck.core.settings import load as load_settings
    from jobdeck.core.worker.worker import Worker

    __version__: str

__all__ = [
    "AsyncJobContext",
    "BlockerResult",
    "Cancelled",
    "ClaimedJob",
    "ConfigurationError",
    "Continue",
    "Cron",
    "DatabaseUnreachable",
    "Done",
    "EmbeddedPostgresError",
    "EndlessDrain",
    "Every",
    "FailedJob",
    "Flow",
    "FlowTicket",
    "Interrupted",
    "InvalidPayload",
    "JobContext",
    "JobFailure",
    "JobNotFound",
    "JobdeckError",
    "LeaseLost",
    "Locked",
    "MissingExtra",
    "NewJob",
    "Payload",
    "PermanentError",
    "Refused",
    "Result",
    "ResultTimeout",
    "RetryLater",
    "SchemaMismatch",
    "Snooze",
    "StillRunning",
    "Task",
    "Ticket",
    "TimedOut",
    "UnknownTaskType",
    "Unreadable",
    "UsageError",
    "VendorError",
    "Worker",
    "__version__",
    "aenqueue",
    "aenqueue_flow",
    "aenqueue_many",
    "aextend_flow",
    "aflow_results",
    "aresult",
    "enqueue",
    "enqueue_flow",
    "enqueue_many",
    "extend_flow",
    "flow_results",
    "job",
    "load_settings",
    "load_types",
    "middleware",
    "new_job",
    "on_failure",
    "open_database",
    "result",
    "schedule",
    "task",
]

_ELSEWHERE = {
    **{name: f"model:{name}" for name in ("ClaimedJob", "NewJob", "Ticket")},
    "Worker": "worker.worker:Worker",
    **{name: f"queue.producers.results:{name}" for name in ("Result", "aresult", "result")},
    **{
        name: f"queue.producers.api:{name}"
        for name in ("aenqueue", "aenqueue_many", "enqueue", "enqueue_many", "new_job")
    },
    **{name: f"registry.around:{name}" for name in ("FailedJob", "middleware", "on_failure")},
    **{name: f"queue.producers.flows:{name}" for name in ("BlockerResult", "Flow", "FlowTicket")},
    **{name: f"queue.producers.flow_calls:{name}" for name in ("aenqueue_flow", "enqueue_flow", "extend_flow")},
    **{name: f"queue.producers.flow_calls:{name}" for name in ("aextend_flow", "aflow_results", "flow_results")},
    **{name: f"queue.producers.tasks:{name}" for name in ("Task", "job", "task")},
    **{name: f"schedules:{name}" for name in ("Cron", "Every")},
    "schedule": "queue.producers.series:schedule",
    "load_settings": "settings:load",
    "load_types": "registry:load",
    "open_database": "connect:open_database",
    **{name: f"registry:{name}" for name in ("AsyncJobContext", "Continue", "Done", "JobContext", "Payload")},
}
"""Where in `jobdeck.core` a name is; all others are errors."""


if not TYPE_CHECKING:  # so that a type checker knows the names above and no other

    def __getattr__(name: str) -> object:
        from importlib import import_module  # noqa: PLC0415 -- as long as the rest of the import

        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 -- slow, and seldom needed

            return version("jobdeck")
        if name not in __all__:
            raise AttributeError(f"module 'jobdeck' has no attribute {name!r}")
        module, _, attribute = _ELSEWHERE.get(name, f"errors:{name}").partition(":")
        found = globals()[name] = getattr(import_module(f"jobdeck.core.{module}"), attribute)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
