"""Proof of a secret in the head of a request, and what makes a secret a bad one."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final

from jobdeck.core.http.endpoints import Call, Declined

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SecretStr

    from jobdeck.core.settings import Settings

SHORTEST: Final = 16
FEWEST_CHARACTERS: Final = 6
"""A secret with fewer different characters can be guessed, however long it is."""
MAKE: Final = "openssl rand -hex 32"
"""The command that makes a good secret."""

BEARER: Final = "bearer "
_BEARER: Final = re.compile(rb"\r\nauthorization:[ \t]*bearer[ \t]+([^\r\n]*)", re.IGNORECASE)
_FILLER: Final = re.compile(
    r"an?|the|this|that|my|your|our|me|it|here|with|of|for|in|to|and|or|is|be|goes|set|put|add|use|insert|enter|fill|"
    r"replace|change|fixme|todo|tbd|x+|example|sample|demo|dummy|default|test|testing|(super|my|your)?secrets?|tokens?|"
    r"password|passwd|pass|key|api|cron|metrics|jobdeck|value|string|long|random|bearer|authorization|auth|account|admin|letmein|"
    r"something|anything|none|null"
)
_CHANGE_ME: Final = re.compile(r"change.?(me|this)|replace.?(me|this)|placeholder", re.IGNORECASE)
_ROWS: Final = ("1234567890" * 10, "0123456789abcdefghijklmnopqrstuvwxyz" * 3, "qwertyuiopasdfghjklzxcvbnm" * 3)


def digest(secret: str) -> bytes:
    """A hash of the secret. Hashes have one length, so the time of their comparison shows nothing about the secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def same(given: str, known: bytes | None) -> bool:
    """Whether `given` is the secret with the hash `known`; never if there is no secret or an empty one is given."""
    return known is not None and bool(given) and hmac.compare_digest(digest(given), known)


def bearer(authorization: str) -> str:
    """The secret in the value of the header Authorization; empty if it has none."""
    return authorization[len(BEARER) :].strip() if authorization[: len(BEARER)].lower() == BEARER else ""


class Secret:
    """A secret of the server that is configured under this name, or is not."""

    def __init__(self, name: str, configured: SecretStr | None) -> None:
        text = configured.get_secret_value().strip() if configured is not None else ""
        self._name = name
        self._known = digest(text) if text else None

    @property
    def is_set(self) -> bool:
        return self._known is not None

    def is_same(self, given: str) -> bool:
        """Whether this is the secret; never if none is configured."""
        return same(given, self._known)

    def admit(self, call: Call) -> None:
        """Checks that a request shows the secret.

        Raises:
            Declined: it does not, or no secret is configured.
        """
        if not self.is_same(bearer(call.headers.get("authorization", ""))):
            raise Declined(
                401, f"This call needs the header Authorization: Bearer {self._name}.", WWW_Authenticate="Bearer"
            )


class Bearers:
    """Recognises requests that show one of these secrets, or one that `also` recognises."""

    def __init__(self, *secrets: Secret, also: Callable[[str], bool] = lambda _secret: False) -> None:
        self._secrets = secrets
        self._also = also

    def shown(self, received: bytes) -> bytes | None:
        """The hash of the secret in a header of the head with which this begins, and which may be incomplete."""
        end = received.find(b"\r\n\r\n")
        found = _BEARER.search(received if end < 0 else received[: end + 2])
        if found is None:
            return None
        given = found[1].strip().decode("utf-8", "surrogateescape")
        known = any(secret.is_same(given) for secret in self._secrets) or self._also(given)
        return digest(given) if known else None


def bad_secrets(settings: Settings) -> str | None:
    """What is wrong with the secrets of the HTTP server and how to make good ones; None if nothing is wrong."""
    named = (("CRON_SECRET", settings.cron_secret), ("JOBDECK_METRICS_TOKEN", settings.metrics_token))
    found = [
        f"{name} {problem}"
        for name, secret in named
        if secret is not None and (problem := weakness(secret.get_secret_value())) is not None
    ]
    return f"{', and '.join(found)}. Make a good secret with `{MAKE}`." if found else None


def weakness(secret: str) -> str | None:
    """What is wrong with a secret, as a predicate that shows nothing of it; None if it is a good one."""
    text = secret.strip()
    if is_placeholder(text):
        return "is a placeholder"
    if len(text) < SHORTEST:
        return f"has fewer than {SHORTEST} characters"
    if len(set(text)) < FEWEST_CHARACTERS:
        return f"has fewer than {FEWEST_CHARACTERS} different characters"
    return None


def is_placeholder(secret: str) -> bool:
    """Whether it is one of the words that documents and templates have in the place of a secret."""
    words = [word for word in re.split(r"[\W_]+", secret.lower()) if word]
    if all(_FILLER.fullmatch(word) for word in words) or _CHANGE_ME.search(secret) is not None:
        return True
    return any(secret.lower() in row for row in _ROWS)
