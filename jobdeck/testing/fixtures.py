"""The fixtures of pytest. Name this module in `conftest.py`: `pytest_plugins = ["jobdeck.testing.fixtures"]`."""

from jobdeck.core.testing.fixtures import (
    jobdeck_connection,
    jobdeck_database,
    jobdeck_prepare,
    jobdeck_server,
    jobdeck_template,
)

__all__ = ["jobdeck_connection", "jobdeck_database", "jobdeck_prepare", "jobdeck_server", "jobdeck_template"]
