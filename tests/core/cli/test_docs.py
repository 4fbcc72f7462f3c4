"""What the documents say of commands and settings is true."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from jobdeck.core.cli.app import cli, commands
from jobdeck.core.plugins import load_plugins
from jobdeck.core.settings import Settings
from tests.core.cli.support import ROOT

PLAYBOOKS = [ROOT / "docs" / "operations.md", ROOT / "core" / "programme" / "playbook.md"]
GUIDES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "competition").glob("*.md"))]
EXAMPLE = ROOT / "examples" / "shop" / "README.md"
PAGES = [ROOT / "README.md", *GUIDES, EXAMPLE, PLAYBOOKS[1]]
EVERY_PAGE = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("bench/*.md"), EXAMPLE, PLAYBOOKS[1]]
DECISIONS = sorted((ROOT / "docs").rglob("decisions/*.md"))
ABOUT_THE_CODE = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md", *DECISIONS]
NOT_OURS = [("saved-filters.md", "preferences.json")]
"""Where pages about the code name a file that a program makes."""
SOURCES = ("core", "tui", "jobdeck/testing", "jobdeck/django", "tests", "bench", "deploy", "examples", "scripts")
OF_THE_DASHBOARD = {"--worker", "--read-only", "--mouse"}
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED_FILE = re.compile(r"`([\w./-]+\.(?:py|sql|toml|md|yml|json|css|tcss|sh|txt|svg|example))`")
NAMED_OBJECT = re.compile(r"`((?:job|outbox|competition|programme)_[a-z_]+)(?:\(.*?\))?`")
EXAMPLES_OF_NAMES = {"job_board_search", "job_producer"}
"""A function of an application, and a role whose prefix is chosen."""
NAMED_PAGE = re.compile(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?")


def fenced(page: Path) -> list[str]:
    """The lines of a page's shell examples."""
    return [
        line.strip()
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.replace("\\\n", "").splitlines()
        if line.strip()
    ]


def spoken(page: Path) -> list[str]:
    """The commands that a page names within a sentence or a table."""
    return re.findall(r"`((?:jobdeck|\./run) [^`]+)`", page.read_text(encoding="utf-8"))


def command_of(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """The command and its arguments in a line of shell; None where the line runs none."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if len(words) < 2 or words[0] not in {"jobdeck", "./run"} or words[1] in OF_THE_DASHBOARD or words[1].isupper():
        return None
    group: click.Command = cli
    words = words[1:]
    while words and isinstance(group, click.Group):
        found = group.get_command(click.Context(group), words[0])
        assert found is not None, words
        group, words = found, words[1:]
    return group, words


def unknown_options(line: str) -> list[str]:
    found = command_of(shlex.split(line, comments=True))
    if found is None:
        return []
    command, arguments = found
    known = {"--help"} | {name for parameter in command.get_params(click.Context(command)) for name in parameter.opts}
    return [word for word in arguments if word.startswith("--") and word not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_in_the_documents_exists(page: Path) -> None:
    lines = fenced(page) + spoken(page)
    assert {line: bad for line in lines if (bad := unknown_options(line))} == {}


def test_the_operators_page_covers_every_command_but_the_tools() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PLAYBOOKS)
    missing = [name for name in commands() if f"jobdeck {name}" not in text]
    assert sorted(missing) == ["demo", "sandbox"]


def aliases() -> dict[str, object]:
    """Every variable that the queue and the plugins read, with its default."""
    found: dict[str, object] = {}
    kinds: list[type[BaseSettings]] = [Settings]
    kinds += [plugin.settings for plugin in load_plugins() if plugin.settings]
    for field in (field for kind in kinds for field in kind.model_fields.values()):
        assert isinstance(field.validation_alias, AliasChoices)
        found |= dict.fromkeys((str(name) for name in field.validation_alias.choices), field.default)
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(target: Path, anchor: str) -> bool:
    return not target.exists() or bool(anchor and anchor not in anchors(target))


def test_every_link_between_documents_leads_somewhere() -> None:
    links = [(page, *found) for page in EVERY_PAGE for found in LINK.findall(page.read_text(encoding="utf-8"))]
    assert len(links) > 100
    dead = [
        f"{page.name}: {target}#{anchor}"
        for page, target, anchor in links
        if leads_nowhere(page.parent / target if target else page, anchor)
    ]
    assert dead == []


def sources() -> list[Path]:
    """The text files in which code, a message or a file for deployment may name a page."""
    found = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.is_file()]
    ours = [path for path in found if not {"__pycache__", "node_modules"} & set(path.parts)]
    return [*ours, ROOT / "schema.sql", ROOT / "pyproject.toml", ROOT / "jobdeck" / "__init__.py"]


@pytest.mark.slow
def test_every_page_that_code_or_a_message_names_is_there() -> None:
    texts = {path: path.read_bytes().decode(errors="ignore") for path in sources()}
    named = {(path, *found) for path, text in texts.items() for found in NAMED_PAGE.findall(text)}
    assert len(named) > 50
    assert [f"{path}: {page}#{anchor}" for path, page, anchor in named if leads_nowhere(ROOT / page, anchor)] == []


def test_every_file_that_a_page_about_the_code_names_is_there() -> None:
    known = [f"/{path.relative_to(ROOT)}" for path in [*sources(), *ROOT.glob("*"), *EVERY_PAGE, *ROOT.glob(".ci/*")]]
    named = {
        (page.name, name) for page in ABOUT_THE_CODE for name in NAMED_FILE.findall(page.read_text(encoding="utf-8"))
    }
    assert len(named) > 100
    assert [one for one in named if not any(path.endswith(f"/{one[1]}") for path in known)] == NOT_OURS


@pytest.mark.slow
def test_every_table_and_function_of_the_database_that_a_page_names_is_there() -> None:
    sql = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "core").rglob("*") if path.suffix in {".sql", ".py"}
    )
    known = set(re.findall(r"\w+", sql))
    named = {name for page in EVERY_PAGE for name in NAMED_OBJECT.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 100
    assert named - known == EXAMPLES_OF_NAMES


def test_the_architecture_has_the_layers_that_are_enforced() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| A layer imports only layers below it: (.+?) \|", text, re.MULTILINE)
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["name"] == "the layers of core")
    shown = [set(re.findall(r"`(\w+)`", layer)) for layer in row.split("→")]
    assert shown == [set(re.findall(r"\w+", layer)) for layer in layers]


def test_the_index_of_the_documents_names_every_page() -> None:
    folder = ROOT / "docs"
    for index in (folder / "README.md", folder / "competition" / "README.md"):
        named = {target for target, _ in LINK.findall(index.read_text(encoding="utf-8"))}
        assert {page.name for page in index.parent.glob("*.md")} - {"README.md"} <= named
    decisions = {f"decisions/{page.name}" for page in (folder / "competition" / "decisions").iterdir()}
    assert decisions <= named


def test_each_feature_beside_other_queues_names_a_test_or_a_command_that_shows_it() -> None:
    lines = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").split("\n|---")[1].splitlines()[1:]
    shown = {cells[1].strip(): cells[3] for line in lines if len(cells := line.split("|")) > 3}
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(shown) == 64
    for feature, by in shown.items():
        named = re.findall(r"`(test_\w+)`", by)
        assert named or "`jobdeck" in by or "versioning.md" in by, feature
        assert set(named) <= written, feature
