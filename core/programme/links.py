"""The address to which links in messages lead (`APP_BASE_URL`), which must not be this machine in production."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobdeck.core.programme.settings import LOOPBACK, CompetitionSettings
from jobdeck.core.programme.vendors.errors import SettingMissing

if TYPE_CHECKING:
    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.settings import Settings


def trouble(settings: Settings) -> str | None:
    """Why messages may not be sent with these settings; None if they may, as always outside production."""
    return _trouble(settings.of(CompetitionSettings), production=settings.is_production)


def require(ctx: CompetitionContext) -> None:
    """Checks where links lead, before a run sends anything.

    Raises:
        SettingMissing: they lead to this machine in production; the message says what to set.
    """
    found = _trouble(ctx.resources.settings, production=ctx.settings.is_production)
    if found is not None:
        raise SettingMissing(found)


def _trouble(settings: CompetitionSettings, *, production: bool) -> str | None:
    if not production or not _is_here(urlsplit(settings.app_base_url).hostname or ""):
        return None
    return (
        "In production, links in messages must not lead to this machine. Set APP_BASE_URL to the address of the "
        "dashboard that coaches and admins open, like https://dashboard.example.org."
    )


def _is_here(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        name = host.rstrip(".")
        return name in LOOPBACK or name.endswith((".localhost", ".localdomain"))
    return address.is_loopback or address.is_unspecified
