"""The reference of the public API, docs/reference.md, from the docstrings."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import jobdeck
from jobdeck import testing
from jobdeck.core.registry.code_values import CodeValues

HEAD: Final = """# Reference

What `import jobdeck` offers, from its docstrings. [Versions](versioning.md) says what is stable and what is
provisional. Parameters behind `*` are given by name. `python -m tests.package.pages` writes this page.
"""
PARTS: Final = {
    "Job types": (
        "job", "task", "Task", "Payload", "schedule", "Cron", "Every", "middleware", "on_failure", "FailedJob",
    ),
    "In a handler": ("JobContext", "AsyncJobContext", "ClaimedJob", "Done", "Continue"),
    "Enqueueing": (
        "enqueue", "enqueue_many", "aenqueue", "aenqueue_many", "new_job", "NewJob", "Ticket", "result", "aresult",
        "Result",
    ),
    "Flows": (
        "Flow", "FlowTicket", "enqueue_flow", "aenqueue_flow", "flow_results", "aflow_results", "extend_flow",
        "aextend_flow", "BlockerResult",
    ),
    "Workers in your own program": ("open_database", "load_settings", "load_types", "Worker"),
    "Tests": ("run_job", "drain", "assert_enqueued", "refute_enqueued", "enqueued"),
}  # fmt: skip
LINE: Final = 110
OF_TESTS: Final = frozenset(PARTS["Tests"])
_SECTION: Final = re.compile(r"^(Args|Raises|Returns):$")
_NAMED: Final = re.compile(r"^    (\*{0,2}[\w, ]+): (.*)$")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


def page() -> str:
    """The whole page. Each public name has its part; the errors have the last one."""
    lines = [HEAD]
    for title, names in PARTS.items():
        lines.append(f"## {title}\n")
        for name in names:
            lines += _entry(name, getattr(testing if name in OF_TESTS else jobdeck, name))
    lines.append("## Errors\n")
    for error in sorted(_errors(), key=lambda one: (len(one.__mro__), one.__name__)):
        above = next(one.__name__ for one in error.__mro__[1:] if one.__name__ != "object")
        lines += [f"### {error.__name__}\n", f"Is a `{above}`.\n" if error is not jobdeck.JobdeckError else ""]
        lines += _prose(inspect.getdoc(error) or "")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def names() -> set[str]:
    """The names of the package that the page has."""
    listed = {name for part in PARTS.values() for name in part} - OF_TESTS
    return listed | {error.__name__ for error in _errors()}


def _errors() -> list[type[Exception]]:
    found = [getattr(jobdeck, name) for name in jobdeck.__all__]
    return [one for one in found if isinstance(one, type) and issubclass(one, Exception)]


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"### {name}\n"
    if inspect.isfunction(value) or (isinstance(value, type) and "__init__" in vars(value) and not _is_protocol(value)):
        yield f"```python\n{_signature(name, value)}\n```\n"
    yield from _prose(inspect.getdoc(value) or "")
    if not isinstance(value, type):
        return
    for member, function in _members(value):
        call = "" if isinstance(function, property) else _signature("", function, bound=True)
        yield f"**`{member}{call}`**\n"
        yield from _prose(inspect.getdoc(function) or "")


def _is_protocol(value: type) -> bool:
    return bool(getattr(value, "_is_protocol", False))


def _members(value: type) -> Iterator[tuple[str, Any]]:
    if issubclass(value, Exception | enum.Enum | jobdeck.Payload):
        return
    for base in reversed(value.__mro__):
        if not base.__module__.startswith("jobdeck"):
            continue
        for member, function in vars(base).items():
            if not member.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                yield member, function


class _Plain:
    """An annotation that a signature prints as it is in the code, without quotes."""

    def __init__(self, text: object) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text if isinstance(self.text, str) else inspect.formatannotation(self.text)


def _signature(name: str, value: Any, *, bound: bool = False) -> str:
    """The call, with each parameter on its own line where it is long. A bound method is shown without its `self`."""
    found = inspect.signature(value)
    given = [one for parameter in found.parameters.values() for one in _each(parameter)]
    parameters = [_unquoted(one) for one in given[bound:]]
    result = found.return_annotation
    ends = "" if result in {inspect.Signature.empty, "None", None} else f" -> {_Plain(result)!r}"
    text = f"{name}{inspect.Signature(parameters)}".replace("<factory>", "…") + ends
    text = re.sub(r"<class '[\w.]*\.(\w+)'>", r"\1", _ADDRESS.sub("", text))
    if not name or len(text) <= LINE:
        return text
    inside = text.removeprefix(f"{name}(").removesuffix(ends).removesuffix(")")
    return f"{name}(\n    " + ",\n    ".join(_split(inside)) + f",\n){ends}"


def _each(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter; for the values of a type, which are one `**values` in the code, each of them."""
    if parameter.annotation != "Unpack[CodeValues]":
        return [parameter]
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=value.__forward_arg__)
        for name, value in CodeValues.__annotations__.items()
    ]


def _unquoted(parameter: inspect.Parameter) -> inspect.Parameter:
    empty = parameter.annotation is inspect.Parameter.empty
    return parameter if empty else parameter.replace(annotation=_Plain(parameter.annotation))


def _split(parameters: str) -> Iterator[str]:
    """The parameters of a signature, split at commas that are in no bracket."""
    depth = start = 0
    for at, letter in enumerate(parameters):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield parameters[start:at].strip()
            start = at + 1
    yield parameters[start:].strip()


def _prose(text: str) -> Iterator[str]:
    """A docstring as Markdown: its sections become lists."""
    listing = False
    for line in text.splitlines():
        named = _NAMED.match(line) if listing else None
        if _SECTION.match(line):
            yield f"\n{line[:-1]}:\n"
            listing = True
        elif named:
            yield f"- `{named[1]}`: {named[2]}"
        else:
            listing = listing and (not line or line.startswith(" "))
            yield f"  {line.strip()}" if listing and line else line
    yield ""
