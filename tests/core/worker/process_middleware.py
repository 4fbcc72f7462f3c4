"""Middleware for the tests of processes: a module that a child process imports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core.registry.around import middleware

if TYPE_CHECKING:
    from collections.abc import Callable


@middleware
def noted(params: Any, ctx: Any, call: Callable[[], Any]) -> Any:
    """Says in the log that it was there."""
    ctx.log.info("before %s", params.number)
    try:
        return call()
    finally:
        ctx.log.info("after")
