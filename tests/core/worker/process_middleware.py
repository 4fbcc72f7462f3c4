"""Middleware for the tests of processes: a module that a child process imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobdeck.core.registry.around import middleware


@middleware
def noted(params: Any, ctx: Any, call: Callable[[], Any]) -> Any:
    """Says in the log that it was there."""
    ctx.log.info("before %s", params.number)
    try:
        return call()
    finally:
        ctx.log.info("after")
