"""The operators' playbook, docs/operations.md, as lines for the screen, and its advice for one kind of failure.

It reads headings, paragraphs, lists, tables and code. Pictures, each on a line of its own, are left out. The text is
the project's and the application's own, so it needs no cleaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from textwrap import dedent, wrap
from typing import TYPE_CHECKING, Final, Literal

from rich.cells import cell_len

from jobdeck.core.plugins import load_plugins
from jobdeck.tui.format import fit
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobdeck.tui.widgets.ink import Span

Kind = Literal["heading", "text", "item", "code", "table"]
LONGEST_LINE: Final = 96
OWN_TYPES: Final = "When a type of the application fails"
KINDS: Final = "What an error's kind means"
_ITEM: Final = re.compile(r"(\s*)([-*]|\d+\.)\s+(.*)")
_INLINE: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\([^)]*\)")
_PICTURE: Final = re.compile(r"!\[[^\]]*\]\([^)]*\)\s*$")
_KIND_LINE: Final = re.compile(r"`([a-z_]+)`: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One part of the page. `level` is a heading's; `rows` are a table's, with its heading first."""

    kind: Kind
    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()


def source() -> str:
    """The Markdown of the page: Jobdeck's own, then the parts of the plugins and of the application's types."""
    from jobdeck.core import registry  # noqa: PLC0415 -- the first screen needs no types, which load pydantic

    types = {one.job_type.task_type: one.job_type.playbook for one in registry.registrations}
    written = tuple((task_type, text) for task_type, text in types.items() if text)
    return _read(tuple(plugin.name for plugin in load_plugins()), written)


@lru_cache(1)
def _read(_plugins: tuple[str, ...], types: tuple[tuple[str, str], ...]) -> str:
    files = (resources.files("jobdeck.tui") / "operations.md", *(plugin.playbook for plugin in load_plugins()))
    parts = [file.read_text(encoding="utf-8") for file in files if file is not None]
    if types:
        parts.append(f"\n## {OWN_TYPES}\n")
        parts += (f"\n### {task_type}\n\n{dedent(text).strip()}\n" for task_type, text in types)
    return "\n".join(parts)


def blocks() -> tuple[Block, ...]:
    return _parsed(source())


@lru_cache(1)
def _parsed(text: str) -> tuple[Block, ...]:
    return tuple(parse(text))


def parse(text: str) -> Iterator[Block]:
    """Splits Markdown into blocks."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("```")), len(lines))
            yield Block("code", "\n".join(lines[at + 1 : end]))
            at = end + 1
        elif line.startswith("#"):
            marks, _, title = line.partition(" ")
            yield Block("heading", title, len(marks))
            at += 1
        elif line.startswith("|"):
            end = next((n for n in range(at, len(lines)) if not lines[n].startswith("|")), len(lines))
            yield Block("table", rows=tuple(_cells(row) for row in lines[at:end] if not set(row) <= set("|-: ")))
            at = end
        elif not line.strip() or _PICTURE.match(line):
            at += 1
        else:
            end = next((n for n in range(at + 1, len(lines)) if _starts_block(lines[n])), len(lines))
            item = _ITEM.match(line)
            joined = " ".join(part.strip() for part in lines[at:end])
            yield Block("item" if item else "text", joined)
            at = end


def _starts_block(line: str) -> bool:
    return not line.strip() or line.startswith(("#", "```", "|")) or _ITEM.match(line) is not None


def _cells(row: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in row.strip().strip("|").split("|"))


def sections() -> tuple[str, ...]:
    return tuple(block.text for block in blocks() if block.kind == "heading" and block.level == 2)


def entries(width: int) -> list[Entry]:
    """The whole page at a width. The line of a heading has the heading's text as its key."""
    room = min(width - 2, LONGEST_LINE)
    found: list[Entry] = []
    before: Kind | None = None
    for block in blocks():
        if found and not (block.kind == "item" and before == "item"):
            found.append(BLANK)
        found += _block(block, room)
        before = block.kind
    return found


def _block(block: Block, room: int) -> Iterator[Entry]:
    if block.kind == "heading":
        ink = "run" if block.level == 2 else "strong"
        yield entry((f" {block.text}", ink), key=block.text)
    elif block.kind == "code":
        for line in block.text.splitlines():
            for part in wrap(line, room - 3, subsequent_indent="  ") or [""]:
                yield entry(("   ", "text"), (part, "accent"))
    elif block.kind == "table":
        yield from _table(block.rows, room)
    elif block.kind == "item":
        mark, _, rest = block.text.partition(" ")
        sign = "•" if mark in {"-", "*"} else mark
        for number, spans in enumerate(wrap_spans(rest, room - 4)):
            yield entry((f" {sign if number == 0 else '':<3}", "muted"), *spans)
    else:
        yield from (entry((" ", "text"), *spans) for spans in wrap_spans(block.text, room))


def _table(rows: Sequence[tuple[str, ...]], room: int) -> Iterator[Entry]:
    widths = [max(len(plain(row[at])) for row in rows) for at in range(len(rows[0]))]
    if sum(widths) + 2 * len(widths) <= room:
        for number, row in enumerate(rows):
            ink = "muted" if number == 0 else "text"
            cells = [(fit(plain(cell), width) + "  ", ink) for cell, width in zip(row, widths, strict=True)]
            yield entry((" ", "text"), *cells)
        return
    head = rows[0]
    for row in rows[1:]:
        yield from (entry((f" {line}", "strong")) for line in wrap(plain(row[0]), room - 1))
        for name, cell in zip(head[1:], row[1:], strict=True):
            for number, spans in enumerate(wrap_spans(cell, room - 14) if cell else []):
                yield entry((f"   {fit(name if number == 0 else '', 10)} ", "muted"), *spans)


def plain(text: str) -> str:
    return _INLINE.sub(lambda match: match[1] or match[2] or match[3], text)


def wrap_spans(text: str, width: int) -> list[list[Span]]:
    """A paragraph in lines, with code and bold words in their own ink. Text without a blank between is not split."""
    clusters: list[list[Span]] = []
    for word, ink, glued in _words(text):
        if glued and clusters:
            clusters[-1].append((word, ink))
        else:
            clusters.append([(word, ink)])
    lines: list[list[Span]] = [[]]
    used = 0
    for cluster in clusters:
        length = sum(cell_len(word) for word, _ in cluster)
        if used and used + 1 + length > width:
            lines.append([])
            used = 0
        if used:
            lines[-1].append((" ", "text"))
            used += 1
        lines[-1] += cluster
        used += length
    return lines


def _words(text: str) -> Iterator[tuple[str, str, bool]]:
    """Each word, its ink, and whether it follows the one before without a blank."""
    at, open_end = 0, False
    for match in [*_INLINE.finditer(text), None]:
        between = text[at : match.start() if match else len(text)]
        for number, word in enumerate(between.split()):
            yield word, "text", open_end and number == 0 and not between[:1].isspace()
        if between:
            open_end = not between[-1:].isspace()
        if match:
            ink = "accent" if match[1] else "strong" if match[2] else "text"
            for number, word in enumerate((match[1] or match[2] or match[3]).split()):
                yield word, ink, open_end and number == 0
            at, open_end = match.end(), True


def advice(task_type: str, kind: str | None) -> list[str]:
    """The playbook's paragraphs on an error's kind and on a failing task type, in this order."""
    found: list[str] = []
    heading = ""
    for block in blocks():
        if block.kind == "heading":
            heading = block.text
        elif heading == task_type and block.kind == "text":
            found.append(plain(block.text))
        elif heading == KINDS and block.kind == "item":
            match = _KIND_LINE.match(block.text.partition(" ")[2])
            if match and match[1] == kind:
                text = plain(match[2])
                found.insert(0, f"{text[:1].upper()}{text[1:]}")
    return found
