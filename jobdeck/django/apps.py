"""The app. Django finds it by the name of the package."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks

from jobdeck.core.errors import JobdeckError
from jobdeck.django import database


class JobdeckConfig(AppConfig):
    """`jobdeck.django`, whose migrations have the label `jobdeck`."""

    name = "jobdeck.django"
    label = "jobdeck"
    verbose_name = "Jobdeck"

    def ready(self) -> None:
        """Has `manage.py check` look at the database of the queue."""
        checks.register(check_database)


def check_database(**_kwargs: Any) -> list[Any]:
    """What is wrong with the database that the queue is to live in, as a list of Django's errors."""
    try:
        database.connection()
    except JobdeckError as error:
        return [checks.Error(str(error), id="jobdeck.E001")]
    return []
