"""The clients of the vendors' APIs. Each is imported and built on first use."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobdeck.core.programme.settings import CompetitionSettings
    from jobdeck.core.programme.vendors.email import EmailClient
    from jobdeck.core.programme.vendors.metactf import MetaCtfClient
    from jobdeck.core.programme.vendors.sms import SmsClient


class Clients:
    """The vendor clients of one process; each is thread-safe."""

    def __init__(self, settings: CompetitionSettings) -> None:
        self._settings = settings

    @cached_property
    def metactf(self) -> MetaCtfClient:
        """The game platform.

        Raises:
            TokenMissing: no token is set (a `PermanentError` and a `ConfigurationError`).
        """
        from jobdeck.core.programme.vendors.metactf import MetaCtfClient  # noqa: PLC0415 -- imported on first use

        return MetaCtfClient(self._settings)

    @cached_property
    def email(self) -> EmailClient:
        """Mail.

        Raises:
            SettingMissing: key or sender is not set (a `PermanentError` and a `ConfigurationError`).
        """
        from jobdeck.core.programme.vendors.email import EmailClient  # noqa: PLC0415 -- imported on first use

        return EmailClient(self._settings)

    @cached_property
    def sms(self) -> SmsClient:
        """Text messages.

        Raises:
            SettingMissing: they are switched off, or account or sender is not set.
        """
        from jobdeck.core.programme.vendors.sms import SmsClient  # noqa: PLC0415 -- imported on first use

        return SmsClient(self._settings)

    def close(self) -> None:
        """Closes the connections of the clients that were built; one that is used again is built again."""
        for name in ("metactf", "email", "sms"):
            client = vars(self).pop(name, None)
            if client is not None:
                client.close()
