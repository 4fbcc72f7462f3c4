"""The pages of evidence, by the names that the table of actions calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.tui.screens.audit import Audit
from jobdeck.tui.screens.bulk import BulkPage
from jobdeck.tui.screens.cron_health import CronHealth
from jobdeck.tui.screens.errors import Errors
from jobdeck.tui.screens.log import Log
from jobdeck.tui.screens.playbook import Playbook
from jobdeck.tui.screens.workers import Workers

if TYPE_CHECKING:
    from jobdeck.tui.screens.page import ListPage

PAGES: Final[dict[str, type[ListPage[Any]]]] = {
    "health": CronHealth,
    "errors": Errors,
    "workers": Workers,
    "audit": Audit,
    "bulk": BulkPage,
    "playbook": Playbook,
    "log": Log,
}
