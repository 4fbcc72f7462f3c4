"""The tokens of producers that the HTTP server knows, so that a stranger's request never waits for the database."""

from __future__ import annotations

import hmac
import logging
import threading
from typing import TYPE_CHECKING, Final

from jobdeck.core.http.clients.proof import bearer
from jobdeck.core.http.endpoints import Declined
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.queue.producers import tokens
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from jobdeck.core.http.endpoints import Call
    from jobdeck.core.postgres.database import Database

log = logging.getLogger(__name__)

READ_SECONDS: Final = 2.0
"""After how many seconds at most a new token is known. A revoked one is refused at once: the database decides."""


class KnownTokens:
    """The hashes of all tokens, read again every two seconds by a thread."""

    def __init__(self, database: Database) -> None:
        self._link = Link(database, "reading the tokens of producers")
        self._hashes: dict[bytes, bytes] | None = None
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name="door producers")

    def stop(self) -> None:
        self._ending.set()

    def knows(self, token_hash: bytes) -> bool:
        """Whether a token has this hash."""
        # Found by a part of the hash, which no client can choose without knowing the token; the rest is compared in
        # constant time.
        found = (self._hashes or {}).get(token_hash[:8])
        return found is not None and hmac.compare_digest(found, token_hash)

    def recognises(self, token: str) -> bool:
        """Whether this is the token of a producer."""
        return self.knows(tokens.hashed(token))

    def admit(self, call: Call) -> None:
        """Checks the token.

        Raises:
            Declined: 401 without a token that is known, 503 while none could be read.
        """
        if self.recognises(bearer(call.headers.get("authorization", ""))):
            return
        if self._hashes is None:
            raise Declined(503, "The database does not answer. Nothing was enqueued.", Retry_After="5")
        raise unknown_token()

    def read(self) -> None:
        """Reads the hashes now.

        Raises:
            psycopg.Error, JobdeckError: the database does not answer.
        """
        self._hashes = {one[:8]: one for one in self._link.run(tokens.hashes)}

    def _loop(self) -> None:
        try:
            while True:
                pause = READ_SECONDS
                try:
                    self.read()
                except FAILURES:
                    pause = self._link.pause()
                except Exception as error:  # noqa: BLE001 -- a failed reading must not end the thread
                    event(log, logging.ERROR, "reading the tokens of producers failed", error=safe_error(repr(error)))
                if self._ending.wait(pause):
                    return
        finally:
            self._link.close()


def unknown_token() -> Declined:
    return Declined(
        401, "This call needs the header Authorization: Bearer with the token of a producer.", WWW_Authenticate="Bearer"
    )
