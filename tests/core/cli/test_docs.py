"""What the documents say of commands and settings is true."""

from __future__ import annotations

import re
import shlex
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
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), PLAYBOOKS[1]]
READ_BESIDE_SETTINGS = {"JOBDECK_CONFIG", "JOBDECK_PLUGINS", "XDG_CONFIG_HOME"}
OF_THE_DASHBOARD = {"--worker", "--read-only", "--mouse"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


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


def table_rows() -> dict[str, str]:
    """The variables of the README's configuration table, each with its default."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Configuration")[1].split("\n## ")[0]
    rows: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([A-Z_0-9]+)`", cells[0]) if line.startswith("|") else []:
            assert name not in rows
            rows[name] = cells[1]
    return rows


def aliases() -> dict[str, object]:
    """Every variable that the queue and the plugins read, with its default."""
    found: dict[str, object] = {}
    kinds: list[type[BaseSettings]] = [Settings]
    kinds += [plugin.settings for plugin in load_plugins() if plugin.settings]
    for field in (field for kind in kinds for field in kind.model_fields.values()):
        assert isinstance(field.validation_alias, AliasChoices)
        found |= dict.fromkeys((str(name) for name in field.validation_alias.choices), field.default)
    return found


def test_the_configuration_table_lists_every_variable_that_is_read_and_no_other() -> None:
    assert set(table_rows()) == set(aliases()) | READ_BESIDE_SETTINGS


def test_the_configuration_table_tells_the_defaults() -> None:
    rows = table_rows()
    for name, default in aliases().items():
        told = rows[name].strip("`")
        if default is None or default == "":
            assert told in {"", "the embedded database", "the system's state folder"}, name
        elif isinstance(default, float):
            assert float(told) == default, name
        else:
            assert told == str(default).lower() or told == str(default), name


def test_every_link_between_documents_leads_somewhere() -> None:
    dead = [
        f"{page.name}: {target}"
        for page in (*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md")))
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert dead == []


def test_each_feature_beside_other_queues_names_a_test_or_a_command_that_shows_it() -> None:
    lines = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").split("\n|---")[1].splitlines()[1:]
    shown = {cells[1].strip(): cells[3] for line in lines if len(cells := line.split("|")) > 3}
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(shown) == 57
    for feature, by in shown.items():
        named = re.findall(r"`(test_\w+)`", by)
        assert named or "`jobdeck" in by or "versioning.md" in by, feature
        assert set(named) <= written, feature
