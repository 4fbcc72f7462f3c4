"""The body of `POST /api/jobs`: one job, or a list of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
)

from jobdeck.core.http.endpoints import Declined
from jobdeck.core.queue.options import OPTIONS, Option
from jobdeck.core.queue.requests import Wanted

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
    kinds = {
        "time": Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written)],
        "number": Annotated[int, Field(ge=option.least, le=option.most)],
        "text": Annotated[str, Field(min_length=1, max_length=option.most)],
    }
    return kinds[option.kind]


def _field(option: Option) -> Any:
    """The type and the default of a key of the body."""
    kind = _kind(option) if option.default is not None else _kind(option) | None
    return Annotated[kind, Field(alias=option.http)], option.default


def schema(option: Option) -> dict[str, Any]:
    """A key of the body in the OpenAPI document."""
    words = {"default": option.default, "description": option.http_words or None}
    return TypeAdapter(_kind(option)).json_schema() | {name: text for name, text in words.items() if text is not None}


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
    return Declined(422, f"{sentence[:MOST_WORDS]}{'…' if len(sentence) > MOST_WORDS else ''} Nothing was enqueued.")


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
