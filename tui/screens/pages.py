"""The pages of evidence, by the names that the table of actions calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tui.screens.audit import Audit
from tui.screens.bulk import BulkPage
from tui.screens.cron_health import CronHealth
from tui.screens.errors import Errors
from tui.screens.log import Log
from tui.screens.playbook import Playbook
from tui.screens.workers import Workers

if TYPE_CHECKING:
    from tui.screens.page import ListPage

PAGES: Final[dict[str, type[ListPage[Any]]]] = {
    "health": CronHealth,
    "errors": Errors,
    "workers": Workers,
    "audit": Audit,
    "bulk": BulkPage,
    "playbook": Playbook,
    "log": Log,
}
