"""What an application's tests use: run a handler, drain the queue, and assert what was enqueued.

    from jobdeck.testing import assert_enqueued, drain, run_job

    def test_an_invoice_is_sent():
        assert run_job(send_invoice, Invoice(customer_id=7)).output == {"sent": 1}

`docs/testing.md` has examples. Only `jobdeck.testing.fixtures`, the fixtures of pytest, needs pytest.
"""

from jobdeck.core.errors import EndlessDrain
from jobdeck.core.testing.assertions import assert_enqueued, enqueued, refute_enqueued
from jobdeck.core.testing.drain import drain
from jobdeck.core.testing.result import JobResult, LoggedLine, ProgressReport
from jobdeck.core.testing.run import run_job

__all__ = [
    "EndlessDrain",
    "JobResult",
    "LoggedLine",
    "ProgressReport",
    "assert_enqueued",
    "drain",
    "enqueued",
    "refute_enqueued",
    "run_job",
]
