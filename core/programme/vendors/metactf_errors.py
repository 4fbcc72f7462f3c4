"""How the game platform can refuse or fail, each with a sentence that holds no personal data.

`outage` tells what is wrong with the vendor or the way to it from what is wrong with one request.
"""

from __future__ import annotations

from typing import ClassVar

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater, VendorError


class GamePlatformError(VendorError):
    """The game platform refused, failed or could not be reached."""

    kind = "game_platform"
    outage: ClassVar[bool] = False


class AuthError(GamePlatformError, PermanentError):
    """The token is not accepted (401): no call can succeed until it is corrected."""

    kind = "game_platform_auth"


class TokenMissing(AuthError, ConfigurationError):
    """No token is set."""

    def __init__(self) -> None:
        super().__init__(
            "No token for the game platform is set. Set GAME_PLATFORM_API_TOKEN to the token the vendor gave you."
        )


class Forbidden(GamePlatformError):
    """The user is not approved, or the token may not do this (403)."""

    kind = "game_platform_forbidden"


class NotFound(GamePlatformError):
    """The vendor does not know the user or team (404)."""

    kind = "game_platform_not_found"


class Conflict(GamePlatformError):
    """What was to be created exists, or clashes with something else (409)."""

    kind = "game_platform_conflict"


class RequestRejected(GamePlatformError):
    """The request was understood to be wrong (422 and every other 4xx)."""

    kind = "game_platform_rejected"


class RateLimited(RetryLater, GamePlatformError):
    """Too many requests (429); `seconds` is how long the vendor asked to wait."""

    kind = "game_platform_rate_limited"
    outage = True


class ServerError(GamePlatformError):
    """The vendor answered that it cannot answer now (408, 425, 5xx)."""

    kind = "game_platform_down"
    outage = True


class TransportError(GamePlatformError):
    """No whole answer came. Where `ambiguous`, the request may have been carried out all the same."""

    kind = "game_platform_unreachable"
    outage = True

    def __init__(self, message: str, *, ambiguous: bool) -> None:
        super().__init__(message)
        self.ambiguous = ambiguous


class ContractError(GamePlatformError, PermanentError):
    """An answer does not have the agreed shape; asking again would bring the same."""

    kind = "game_platform_contract"
