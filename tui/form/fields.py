"""The fields of a payload, read from its model: label, kind of widget, and how its text is parsed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from pydantic.errors import PydanticInvalidForJsonSchema

from jobdeck.core import plugins
from jobdeck.core.errors import InvalidPayload, UsageError
from jobdeck.core.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from jobdeck.core.model import Json
    from jobdeck.core.registry import JobType

Kind = Literal["switch", "choice", "number", "search", "id", "ids", "words", "time", "text", "json"]
UNSET: Final = ""
"""The text of a field that the payload does not contain."""
LONGEST: Final = 60


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `choices` belong to a choice, `least` and `most` are the limits of a number.

    The kind `search` is an id that a plugin looks up; the name of the field is the look-up's payload key.
    """

    name: str
    label: str
    kind: Kind
    description: str = ""
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    whole: bool = True

    @property
    def note(self) -> str:
        """The note beside the field: limits and description."""
        parts = [self.limits, self.description]
        if self.required:
            parts.insert(0, "required")
        return "; ".join(part for part in parts if part)

    @property
    def limits(self) -> str:
        """What a number or a list may be, in words."""
        if self.kind == "number":
            what = "" if self.whole else "number, "
            if self.least is not None and self.most is not None:
                return f"{what}{self.least:g} to {self.most:g}"
            if self.least is not None:
                return f"{what}{self.least:g} or more"
            return f"{what}at most {self.most:g}" if self.most is not None else what.rstrip(", ")
        if self.kind == "words":
            return "any of " + ", ".join(self.choices)
        return ""


def fields_of(job_type: JobType) -> tuple[Field, ...]:
    """The fields of a type's payload in the order of its model; none where the model has no JSON schema."""
    try:
        schema = job_type.payload.model_json_schema(by_alias=True)
    except PydanticInvalidForJsonSchema:
        return ()
    needed = set(schema.get("required", ()))
    known = schema.get("$defs", {})
    return tuple(
        _field(name, _resolved(facts, known), required=name in needed)
        for name, facts in schema.get("properties", {}).items()
    )


def shown(field: Field, payload: Mapping[str, Any]) -> str | None:
    """A payload's value as the text of its field; None where no text can express it."""
    if field.name not in payload:
        return _plain(field, field.default) if field.kind in {"switch", "choice"} else UNSET
    return _plain(field, payload[field.name])


def read(field: Field, text: str, now: datetime) -> Any:
    """Parses the text of a field; None for an empty text.

    Raises:
        UsageError: the text is not valid; a few words say what would be.
    """
    text = text.strip()
    if text == UNSET:
        if field.required:
            raise UsageError("is required")
        return None
    value: Any = text
    match field.kind:
        case "switch" | "choice":
            yes_or_no = field.kind == "switch" or field.choices == (UNSET, "false", "true")
            value = text == "true" if yes_or_no else text
        case "number":
            value = _number(field, text)
        case "search" | "id":
            value = _id(text)
        case "ids" | "words":
            value = _items(field, text)
        case "time":
            value = parse_time(text, now).isoformat()
        case "json":
            value = _json(text)
    return value


def with_value(field: Field, payload: Json, value: Any, original: Mapping[str, Any]) -> Json:
    """The payload with a field's value. A default that the original did not contain is left out."""
    changed = {name: kept for name, kept in payload.items() if name != field.name}
    if value is None and not (field.kind in {"switch", "choice"} and field.default is not None):
        return changed
    if value == field.default and field.name not in original:
        return changed
    if field.name in payload:
        return {name: value if name == field.name else kept for name, kept in payload.items()}
    return {**changed, field.name: value}


def problems(job_type: JobType, payload: Json) -> dict[str, str]:
    """The problem of each field of a payload, in few words; the key `payload` is a problem of the whole."""
    try:
        job_type.parse(payload)
    except InvalidPayload as error:
        return {name: _brief(problem) for name, problem in error.problems.items()}
    return {}


def _resolved(facts: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A property with its references resolved and without the null of an optional value."""
    if "$ref" in facts:
        meant = known[facts["$ref"].rpartition("/")[2]]
        return {**meant, **{key: value for key, value in facts.items() if key != "$ref"}}
    options = [option for option in facts.get("anyOf", facts.get("allOf", ())) if option.get("type") != "null"]
    if len(options) == 1:
        outer = {key: value for key, value in facts.items() if key not in {"anyOf", "allOf"}}
        nullable = {"nullable": True} if len(options) < len(facts.get("anyOf", options)) else {}
        return {**_resolved(options[0], known), **outer, **nullable}
    resolved = dict(facts)
    if "items" in facts:
        resolved["items"] = _resolved(facts["items"], known)
    return resolved


def _field(name: str, facts: Mapping[str, Any], *, required: bool) -> Field:
    kind, choices = _kind(name, facts)
    return Field(
        name,
        _label(name),
        kind,
        description=str(facts.get("description", "")).strip(),
        required=required,
        default=facts.get("default"),
        choices=choices,
        least=_limit(facts, "minimum", "exclusiveMinimum"),
        most=_limit(facts, "maximum", "exclusiveMaximum"),
        whole=facts.get("type") != "number",
    )


def _kind(name: str, facts: Mapping[str, Any]) -> tuple[Kind, tuple[str, ...]]:
    unset = (UNSET,) if facts.get("nullable") and facts.get("default") is None else ()
    words = facts.get("enum", [facts["const"]] if "const" in facts else None)
    if words is not None and all(isinstance(word, str) for word in words):
        return "choice", (*unset, *words)
    match facts.get("type"):
        case "boolean":
            return ("choice", (UNSET, "false", "true")) if unset else ("switch", ("false", "true"))
        case "integer" | "number":
            return "number", ()
        case "string":
            return _kind_of_text(name, str(facts.get("format", ""))), ()
        case "array":
            return _kind_of_list(facts.get("items", {}))
        case _:
            return "json", ()


def _kind_of_text(name: str, form: str) -> Kind:
    if form == "date-time":
        return "time"
    if name in plugins.searches():
        return "search"
    return "id" if form == "uuid" else "text"


def _kind_of_list(items: Mapping[str, Any]) -> tuple[Kind, tuple[str, ...]]:
    if "enum" in items:
        return "words", tuple(str(word) for word in items["enum"])
    if "const" in items:
        return "words", (str(items["const"]),)
    return ("ids", ()) if items.get("type") == "string" else ("json", ())


def _limit(facts: Mapping[str, Any], inclusive: str, exclusive: str) -> float | None:
    found = facts.get(inclusive, facts.get(exclusive))
    return found if isinstance(found, int | float) else None


def _label(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower()
    return words.removesuffix(" id")


def _plain(field: Field, value: Any) -> str | None:
    if value is None:
        return UNSET
    match field.kind:
        case "switch" | "choice":
            word = str(value).lower() if isinstance(value, bool) else value
            return word if word in field.choices else None
        case "ids" | "words":
            good = isinstance(value, list) and all(isinstance(item, str) and _ordinary(item) for item in value)
            return " ".join(value) if good else None
        case "json":
            text = json.dumps(value)
            return text if len(text) <= LONGEST else None
        case "number":
            return f"{value}" if isinstance(value, int | float) and not isinstance(value, bool) else None
        case _:
            return value if isinstance(value, str) and value.isprintable() and value.strip() == value else None


def _ordinary(text: str) -> bool:
    return text.isprintable() and bool(text) and not any(letter.isspace() or letter == "," for letter in text)


def _number(field: Field, text: str) -> int | float:
    try:
        value = int(text) if field.whole else float(text)
    except ValueError:
        raise UsageError("must be a whole number" if field.whole else "must be a number") from None
    if (field.least is not None and value < field.least) or (field.most is not None and value > field.most):
        raise UsageError(f"must be {field.limits.removeprefix('number, ')}")
    return value


def _id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise UsageError("is not an id (36 digits and dashes)") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise UsageError("is not valid JSON") from None


def _items(field: Field, text: str) -> list[str]:
    found = list(dict.fromkeys(re.split(r"[\s,;]+", text.strip(" ,;"))))
    strange = [word for word in found if word not in field.choices] if field.kind == "words" else ()
    if strange:
        raise UsageError(f"{strange[0][:LONGEST]} is not one of {', '.join(field.choices)}")
    return found


def _brief(problem: str) -> str:
    """A validator's message without the words that begin all of them."""
    words = problem.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    words = re.sub(r"^Input should be a valid ", "must be a valid ", words)
    words = re.sub(r"^Input should be ", "must be ", words)
    return "is required" if words == "Field required" else words
