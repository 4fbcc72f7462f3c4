"""The body of `POST /api/jobs`: one job, or a list of them, and whose token may send it.

The tokens are known to the process, so that a stranger's request never waits for the database.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
)

from jobdeck.core.http.clients.proof import bearer
from jobdeck.core.http.endpoints import Call, Declined
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.queue.options import NOTHING, OPTIONS, Option
from jobdeck.core.queue.producers import tokens
from jobdeck.core.queue.requests import Wanted
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from jobdeck.core.postgres.database import Database


MOST_JOBS: Final = 1000
MOST_LEVELS: Final = 64
"""How deep a body may nest. Postgres and Python each have a limit of their own, which depends on their stack."""
MOST_WORDS: Final = 500
"""The longest reason in an answer, in characters."""
OFFERED: Final = tuple(one for one in OPTIONS if one.http)
"""The options of a job in a request."""


def _written(moment: Any) -> Any:
    if not isinstance(moment, str):
        raise ValueError("a time is a text like 2026-12-24T18:00:00Z")  # noqa: TRY004 -- pydantic expects it
    return moment


def _seconds(number: Any) -> Any:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError("a duration is a number of seconds")  # noqa: TRY004 -- pydantic expects it
    return number


_SECONDS: Final = {"type": "number", "exclusiveMinimum": 0}


class Asked(BaseModel):
    """One job of a request, without the fields of its options."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Annotated[str, Field(min_length=1, max_length=200)]
    payload: dict[str, Any] = {}

    def wanted(self, producer: str) -> Wanted:
        """The job as requested. Its dedupe key begins with the producer's name, so that it meets no key of others."""
        given = {one.name: getattr(self, one.name) for one in OFFERED}
        wanted = Wanted(self.type, self.payload, **given)
        return replace(wanted, dedupe_key=f"{producer}:{wanted.dedupe_key}" if wanted.dedupe_key else None)


def _kind(option: Option) -> Any:
    kinds: dict[str, Any] = {
        "time": Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written)],
        "number": Annotated[int, Field(ge=option.least, le=option.most)],
        "duration": Annotated[
            timedelta,
            Field(strict=False, gt=timedelta(0), le=timedelta(seconds=option.most)),
            BeforeValidator(_seconds),
            WithJsonSchema(_SECONDS | {"maximum": option.most}),
        ],
        "choice": Literal[option.choices],
        "text": Annotated[str, Field(min_length=1, max_length=option.most)],
    }
    return kinds[option.kind]


def _field(option: Option) -> Any:
    """The type and the default of a key of the body."""
    return Annotated[_kind(option) | None, Field(alias=option.http)], None


def schema(option: Option) -> dict[str, Any]:
    """A key of the body in the OpenAPI document."""
    words = {"description": option.http_words} if option.http_words else {}
    return TypeAdapter(_kind(option)).json_schema() | words


_Asked = create_model("Asked", __base__=Asked, **{one.name: _field(one) for one in OFFERED})


def parse(body: bytes) -> tuple[list[Asked], bool]:
    """The jobs of a body, and whether it is a list.

    Raises:
        Declined: 400 if it is not JSON, 422 if it is no job or list of jobs.
    """
    content = _json(body)
    if isinstance(content, list):
        if not 1 <= len(content) <= MOST_JOBS:
            raise refused(f"A list has 1 to {MOST_JOBS} jobs, and this one has {len(content)}.")
        return [_asked(one, f"Job {number} of {len(content)}") for number, one in enumerate(content, 1)], True
    return [_asked(content, "The job")], False


def refused(sentence: str) -> Declined:
    """The refusal of jobs that cannot be enqueued as they are."""
    sentence = sentence.removesuffix(f" {NOTHING}")
    return Declined(422, f"{sentence[:MOST_WORDS]}{'…' if len(sentence) > MOST_WORDS else ''} {NOTHING}")


def _json(body: bytes) -> Any:
    try:
        content = json.loads(body.decode())
        written = json.dumps(content, allow_nan=False, ensure_ascii=False)
        written.encode()
    except (ValueError, RecursionError):
        raise Declined(400, "The body is not JSON in UTF-8. Nothing was enqueued.") from None
    if "\\u0000" in written.replace("\\\\", ""):
        raise refused("The body contains a NUL character, which Postgres cannot store.")
    if _is_too_deep(content):
        raise refused(f"The body nests more than {MOST_LEVELS} levels deep.")
    return content


def _is_too_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MOST_LEVELS):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [one for values in inner for one in values]
    return any(isinstance(one, (dict, list)) for one in level)


def _asked(content: Any, what: str) -> Asked:
    if not isinstance(content, dict):
        raise refused(f'{what} is not a JSON object like {{"type": "send_invoice", "payload": {{"customerId": 7}}}}.')
    try:
        return _Asked.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise refused(f"{what} does not fit: {where}: {first['msg'].removesuffix('.')}.") from None


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
