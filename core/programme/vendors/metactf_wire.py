"""Parses the vendor's answers into models or errors."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from pydantic import ValidationError

from jobdeck.core.programme.vendors.http import RETRYABLE_STATUSES
from jobdeck.core.programme.vendors.metactf_errors import (
    AuthError,
    Conflict,
    ContractError,
    Forbidden,
    GamePlatformError,
    NotFound,
    RateLimited,
    RequestRejected,
    ServerError,
)
from jobdeck.core.programme.vendors.metactf_models import Answer
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

A = TypeVar("A", bound=Answer)

LONGEST_DETAIL: Final = 300
MAX_PROBLEMS: Final = 3
MOST_LEVELS: Final = 64
"""Levels of lists and objects in an answer. Its known fields have 5; unknown ones are kept as they are."""

DEFAULT_PAUSE: Final = 30.0
"""Pause in seconds after a 429 without a duration."""

_PUBLIC_FIELDS: Final = {"role", "division", "syned_user_id", "syned_team_id", "syned_coach_user_id"}

# Characters that Postgres can store neither as text nor as jsonb.
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def decode(content: bytes, where: str) -> Any:
    """Parses JSON; characters that the database cannot store become U+FFFD.

    Raises:
        ContractError: the content is not JSON, or nested deeper than what can be kept.
    """
    try:
        return _storable(json.loads(content, parse_constant=_no_constant), MOST_LEVELS)
    except _TooDeepError as error:
        raise ContractError(
            f"The game platform's answer to {where} is nested in more than {MOST_LEVELS} levels."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ContractError(f"The game platform's answer to {where} is not JSON.") from error


def check(value: Any, model: type[A], where: str) -> A:
    """Validates an answer against its model.

    Raises:
        ContractError: names the invalid fields, without their values.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        problems = "; ".join(_problem(item["loc"], item["msg"]) for item in found[:MAX_PROBLEMS])
        more = f" and {len(found) - MAX_PROBLEMS} more" if len(found) > MAX_PROBLEMS else ""
        raise ContractError(
            safe_error(f"The game platform's answer to {where} does not have the agreed shape: {problems}{more}.", 600)
        ) from None


def refusal(status: int, content: bytes, where: str, sent: Mapping[str, Any], wait: float | None) -> GamePlatformError:
    """The error for an answer outside 2xx. Sent values are personal data, so they are masked in its message."""
    detail = _detail(content, sent)
    message = f"The game platform answered {status} to {where}" + (f": {detail}" if detail else "") + "."
    if status == 401:
        return AuthError(
            "The game platform does not accept the token (401). Correct GAME_PLATFORM_API_TOKEN, then retry."
        )
    if 300 <= status < 400:
        return ContractError(
            f"The game platform answered {status} to {where}, a redirect, which is not followed. "
            "Check GAME_PLATFORM_API_BASE_URL."
        )
    if status == 429:
        return RateLimited(DEFAULT_PAUSE if wait is None else wait, message)
    if status >= 500 or status in RETRYABLE_STATUSES:
        return ServerError(message)
    known: dict[int, type[GamePlatformError]] = {403: Forbidden, 404: NotFound, 409: Conflict}
    return known.get(status, RequestRejected)(message)


def _detail(content: bytes, sent: Mapping[str, Any]) -> str:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, list):
        items = [item for item in detail if isinstance(item, dict)]
        text = "; ".join(_problem(item.get("loc"), item.get("msg")) for item in items[:MAX_PROBLEMS])
    else:
        text = detail if isinstance(detail, str) else ""
    private = {str(value) for name, value in sent.items() if name not in _PUBLIC_FIELDS and str(value).strip()}
    for value in sorted(private, key=len, reverse=True):
        text = re.sub(re.escape(value), "…", text, flags=re.IGNORECASE)
    return safe_error(text, LONGEST_DETAIL).rstrip(".")


def _problem(location: Any, message: Any) -> str:
    parts = location if isinstance(location, list | tuple) else [location]
    return f"{'.'.join(str(part) for part in parts)}: {message}"


def _storable(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list | dict) and not levels:
        raise _TooDeepError
    if isinstance(value, list):
        return [_storable(item, levels - 1) for item in value]
    if isinstance(value, dict):
        return {_storable(key, 0): _storable(item, levels - 1) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("the number is too large")
    return value


class _TooDeepError(Exception):
    """A value has more levels than can be kept: pydantic writes 254."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
