"""Every command over a database in which every text is hostile: nothing of it reaches the terminal but words."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from psycopg import sql

from jobdeck.core.cli.app import cli
from jobdeck.core.redact import clean
from tests.core.cli.support import ROOT, Jobdeck, environment, runner
from tests.support.hostile_rows import FORGED, HOSTILE, json_texts
from tests.support.queue import Connection
from tests.tui.hostile import harmful

PRIVATE: Final = ("jane", "doe@", "example.org", "hunter2", "90012345")
MASKED_BY_THE_DATABASE: Final = dict.fromkeys(
    ("receipts", "campaign", "suppressions", "sent-to"), ("jane", "example.org")
)
"""What is left of a hostile address in what its functions make of it: the part after the first @."""
INSTEAD: Final[dict[tuple[str, ...], list[list[str]]]] = {
    # These would run until they are stopped. What they print besides their logs is here, or is not from the database.
    ("worker",): [["--drain"]],
    ("serve",): [["--openapi"]],
    ("demo",): [],
    ("sandbox",): [],
    ("cutover", "watch"): [],  # tests/core/programme/test_cutover_watch.py gives it hostile text
    ("mcp",): [],  # tests/core/cli/mcp asks it
    ("web",): [],
}
ALWAYS: Final = {"enqueue-many": ["--count", "2"], "edit": ["--priority", "3"], "enqueue": ["--every", "1h"]}
"""What a command asks for although no single one of its options is required."""
DESTRUCTIVE: Final = frozenset({"drop"})
"""Commands that leave nothing to look at when they are confirmed."""
IDS: Final = {
    "": "SELECT id::text FROM job_queue UNION ALL SELECT job_id::text FROM job_runs WHERE removed",
    "restore": "SELECT id::text FROM job_trash_list",
    "bulk": "SELECT id::text FROM job_bulk",
    "flow": "SELECT id::text FROM job_flows UNION SELECT job_id::text FROM job_flow_members",
    "campaign": "SELECT id::text FROM competitor_announcement_campaigns",
    "receipts": "SELECT job_id::text FROM outbox_messages",
    "suppressions": "SELECT id::text FROM email_suppressions",
    "sent-to": "SELECT recipient_ref::text FROM outbox_messages UNION SELECT id::text FROM profiles",
}
VALUES: Final = {
    "FILTER": "attempts:0", "TEXT": "o", "TYPE": "cli_echo", "NAME": "full", "REASON": "asked", "KEY": "key",
    "RATE": "60/min",
    "JSON": "{}", "DURATION": "1h", "TYPE,…": "cli_echo", "ADDRESS": "somebody@example.net", "ID|NAME|ADDRESS": "o",
}  # fmt: skip
NO_TEXT: Final = frozenset({"--database-url", "--handlers", "--schema", "--roles-prefix", "--openapi"})
"""Options that only change where the rows come from."""


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below this one, with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), name)
        assert found is not None
        yield from leaves(found, (*path, name))


COMMANDS: Final = dict(leaves(cli))


class Asked:
    """The ways to call one command, made from its parameters."""

    def __init__(self, path: tuple[str, ...], ids: list[str], bulk: str, folder: Path) -> None:
        self.path = path
        self.ids = ids
        self.bulk = bulk
        self.file = folder / "text.md"
        self.file.write_text("{}")

    def ways(self) -> Iterator[list[str]]:
        """With what is required alone, then with each option."""
        if self.path in INSTEAD:
            yield from INSTEAD[self.path]
            return
        params = COMMANDS[self.path].params
        always = ALWAYS.get(self.path[0], [])
        takes_ids = any(self._is_id(param) for param in params)
        for number, one in enumerate(self.ids[:4] if takes_ids else [""]):
            needs = [param for param in params if param.required or self._is_id(param)]
            needed = [*(word for param in needs for word in self._words(param, one)), *always]
            yield needed
            options = [] if number else [param for param in params if self._is_option(param)]
            for option in options:
                if option.metavar in {"BULK", "FILTER"} and takes_ids:
                    yield [*self._words(option, one), "--dry-run"]
                    yield [*self._words(option, one), "--yes"]
                else:
                    yield [*needed, *self._words(option, one)]

    @staticmethod
    def _is_option(param: click.Parameter) -> bool:
        return isinstance(param, click.Option) and not param.required and param.opts[0] not in {"--json", *NO_TEXT}

    @staticmethod
    def _is_id(param: click.Parameter) -> bool:
        return isinstance(param, click.Argument) and (param.metavar or "").startswith(("ID", "[ID]"))

    def _words(self, param: click.Parameter, one: str) -> list[str]:
        name = [param.opts[0]] if isinstance(param, click.Option) else []
        if isinstance(param, click.Option) and param.is_flag:
            return [] if self.path[0] in DESTRUCTIVE and name == ["--yes"] else name
        if isinstance(param.type, click.Choice):
            return [*name, str(next(iter(param.type.choices)))]
        if isinstance(param.type, click.IntRange):
            return [*name, str(max(int(param.type.min or 0), 3))]
        metavar = param.metavar or ("NAME" if param.required else "")
        if self._is_id(param) or metavar in {"ID", "BULK"}:
            found = self.bulk if metavar == "BULK" else one or self.ids[0]
            return [*name, found]
        if metavar in {"FILE.md", "JSONL"}:
            return [*name, str(self.file)]
        value = VALUES.get(metavar) or ("in 2h" if metavar == "TIME" else None)
        return [*name, value] if value else []


@pytest.fixture
def jobdeck(
    hostile_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Jobdeck:
    environment(monkeypatch, tmp_path, hostile_url)
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "4711")
    monkeypatch.setenv("JOBDECK_DATABASES", json.dumps({"hostile": hostile_url}))
    return runner(capsys)


def check(jobdeck: Jobdeck, arguments: list[str]) -> None:
    """Runs a command, and judges what the terminal gets of it."""
    ran = jobdeck(*arguments)
    written = ran.out + ran.err
    assert harmful(written) <= {"\n"}, arguments
    assert not [line for line in written.splitlines() if line.startswith(FORGED)], arguments
    assert "unexpected" not in ran.err, (arguments, ran.err)
    if "--reveal" not in arguments:
        left = MASKED_BY_THE_DATABASE.get(arguments[0], ())
        assert not [word for word in PRIVATE if word in written and word not in left], (arguments, written)
    if "--json" in arguments and ran.code in {0, 4}:
        texts = json_texts(ran.out)
        assert "--reveal" in arguments or [text for text in texts if clean(text, multiline=True) != text] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_nothing_but_words_of_a_hostile_row_reaches_the_terminal(
    jobdeck: Jobdeck, hostile_url: str, path: tuple[str, ...], tmp_path: Path
) -> None:
    with Connection.connect(hostile_url, autocommit=True) as conn:
        ids, bulks = (
            [one for (one,) in conn.execute(listed).fetchall()] for listed in (IDS.get(path[0], IDS[""]), IDS["bulk"])
        )
    for way in Asked(path, ids, bulks[0], tmp_path).ways():
        for form in ([], ["--json"]):
            check(jobdeck, [*path, *way, *form])


@pytest.mark.slow
def test_an_answer_about_a_job_that_was_there_is_harmless(jobdeck: Jobdeck, hostile_url: str) -> None:
    with Connection.connect(hostile_url, autocommit=True) as conn:
        conn.execute(
            """
            UPDATE job_queue SET dedupe_key = 'quick-sync:game_platform_sync'
            WHERE id = (SELECT id FROM job_queue WHERE status = 'pending' LIMIT 1)
            """
        )
        for form in ([], ["--json"]):
            check(jobdeck, ["quick-sync", "full", *form])
        conn.execute("UPDATE job_queue SET dedupe_key = 'one' WHERE dedupe_key = 'quick-sync:game_platform_sync'")
        for form in ([], ["--json"]):
            check(jobdeck, ["enqueue", "cli_echo", "--dedupe-key", "one", *form])
            assert FORGED in jobdeck("enqueue", "cli_echo", "--dedupe-key", "one", *form).out


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["jobs"], ["doctor"], ["init", "--dry-run"], ["drop"], ["init"]])
def test_a_hostile_record_of_the_schema_is_harmless(jobdeck: Jobdeck, hostile_url: str, arguments: list[str]) -> None:
    with Connection.connect(hostile_url, autocommit=True) as conn:
        columns = conn.execute(
            """
            SELECT attname FROM pg_attribute WHERE attrelid = 'jobdeck_schema'::regclass AND attnum > 0
                AND NOT attisdropped AND atttypid = 'text'::regtype
            """
        ).fetchall()
        for (column,) in columns:
            text = sql.SQL("UPDATE jobdeck_schema SET {} = %s || ctid::text").format(sql.Identifier(column))
            conn.execute(text, (HOSTILE,))
            for form in ([], ["--json"]):
                check(jobdeck, [*arguments, *form])


WRITERS: Final = {"print", "echo", "secho", "write", "writelines"}


def test_commands_write_to_the_terminal_through_one_function() -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("core/cli", "core/programme/commands")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")) in WRITERS
        and not ast.unparse(node.func).startswith("output.")
    ]
    assert strays
    assert [stray for stray in strays if not stray.startswith("core/cli/output.py:")] == []
