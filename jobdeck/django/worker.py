"""The task types of a Django project, for a worker: `JOBDECK_HANDLERS=jobdeck.django.worker`.

`manage.py jobdeck` names this module by itself. It imports the modules `jobs` and `tasks` of the installed apps, and
puts a middleware around plain handlers. A process of `isolation="process"` imports it for the middleware's sake, so
that the project is set up before its models are imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.db import connections
from django.utils.module_loading import autodiscover_modules

from jobdeck.core.registry import registrations
from jobdeck.core.registry.around import middleware

if TYPE_CHECKING:
    from collections.abc import Callable

if not apps.ready:
    django.setup()
autodiscover_modules("jobs", "tasks")
# A worker takes the types of modules that this one has as attributes, whatever imported them first.
globals().update({f"module {name}": sys.modules[name] for one in registrations for name in one.modules[:1]})


def close_unusable() -> None:
    """Closes this thread's connections that are broken or too old, as Django does around a request."""
    for one in connections.all(initialized_only=True):
        if not one.in_atomic_block:  # as in a test, whose connection stays
            one.close_if_unusable_or_obsolete()


@middleware
def fresh_connections(_params: Any, _ctx: Any, call: Callable[[], Any]) -> Any:
    """Keeps the connections of Django usable in a worker's threads, which live for longer than a request."""
    close_unusable()
    try:
        return call()
    finally:
        close_unusable()
