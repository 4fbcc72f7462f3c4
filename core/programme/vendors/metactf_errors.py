"""Errors of the game platform. Their messages contain no personal data.

`outage` is True if the vendor or the connection failed, rather than one request.
"""

from __future__ import annotations

from typing import ClassVar

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater, VendorError


class GamePlatformError(VendorError):
    """The game platform refused, failed or could not be reached."""

    kind = "game_platform"
    outage: ClassVar[bool] = False


class AuthError(GamePlatformError, PermanentError):
    """The token is not accepted (401); no call can succeed until it is corrected."""

    kind = "game_platform_auth"


class TokenMissing(AuthError, ConfigurationError):
    """No token is set."""

    def __init__(self) -> None:
        super().__init__("No token for the game platform is set. Set GAME_PLATFORM_API_TOKEN to the vendor's token.")


class Forbidden(GamePlatformError):
    """The user is not approved, or the token may not do this (403)."""

    kind = "game_platform_forbidden"


class NotFound(GamePlatformError):
    """The vendor does not know the user or team (404)."""

    kind = "game_platform_not_found"


class Conflict(GamePlatformError):
    """The object to create exists, or conflicts with another one (409)."""

    kind = "game_platform_conflict"


class RequestRejected(GamePlatformError):
    """The vendor rejected the request as invalid (422 and every other 4xx)."""

    kind = "game_platform_rejected"


class RateLimited(RetryLater, GamePlatformError):
    """Too many requests (429); `seconds` is the pause that the vendor asked for."""

    kind = "game_platform_rate_limited"
    outage = True


class ServerError(GamePlatformError):
    """The vendor is unavailable (408, 425, 5xx)."""

    kind = "game_platform_down"
    outage = True


class TransportError(GamePlatformError):
    """No complete answer arrived. If `ambiguous`, the vendor may have processed the request."""

    kind = "game_platform_unreachable"
    outage = True

    def __init__(self, message: str, *, ambiguous: bool) -> None:
        super().__init__(message)
        self.ambiguous = ambiguous


class ContractError(GamePlatformError, PermanentError):
    """An answer does not have the agreed shape; a retry would not help."""

    kind = "game_platform_contract"
