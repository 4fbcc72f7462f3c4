"""What a component has put into the database, object by object, to find out what was altered by hand."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.schema.components import known_components, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg

    from jobdeck.core.schema.components import Component

_NAMES: Final = re.compile(
    r"^\s*create (?:or replace )?(?:unique )?(table|view|type|sequence|index|function|trigger) (?:if not exists )?"
    r"(?:public\.)?(\w+)",
    re.MULTILINE,
)
_INDEX: Final = re.compile(
    r"^create (unique )?index if not exists (\w+) on (?:public\.)?(\w+)[^;]*;", re.MULTILINE | re.DOTALL
)
_MADE: Final = re.compile(r"^create table if not exists (?:public\.)?(\w+) \((.*?)^\)", re.MULTILINE | re.DOTALL)
_ALTERED: Final = re.compile(r"^\s*alter table (?:public\.)?(\w+)\b(.*?);", re.MULTILINE | re.DOTALL)
_GIVEN_NAME: Final = re.compile(r"_(pkey|key|check|fkey|excl)\d*$")
_RELATIONS: Final = ("table", "view", "type", "sequence")
LONGEST_TEXT: Final = 160
"""A definition up to this length is kept as it is, so that a message can quote it; a longer one as its digest."""

_SETTINGS: Final = """
SELECT set_config(name, value, true) FROM (VALUES ('search_path', 'pg_catalog'), ('TimeZone', 'UTC'),
    ('DateStyle', 'ISO'), ('IntervalStyle', 'postgres'), ('quote_all_identifiers', 'off')) AS fixed (name, value)
"""

_OBJECTS: Final = """
WITH ours AS (
    SELECT c.oid, c.relname, c.relkind FROM pg_class AS c
    WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relname = ANY (%(relations)s)
)
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'table' END,
    c.relname, c.relname::text, CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) ELSE c.relkind::text END
FROM ours AS c WHERE c.relkind IN ('r', 'p', 'v', 'c', 'S')
UNION ALL
SELECT 'column', c.relname, c.relname || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attnotnull THEN 'not null' END, 'default ' || pg_get_expr(d.adbin, d.adrelid),
    nullif(a.attidentity, ''), nullif(a.attgenerated, ''))
FROM ours AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p', 'c')
UNION ALL
SELECT 'constraint', c.relname, c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
FROM ours AS c JOIN pg_constraint AS k ON k.conrelid = c.oid WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT 'index', c.relname, i.relname, pg_get_indexdef(x.indexrelid)
FROM ours AS c JOIN pg_index AS x ON x.indrelid = c.oid JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
UNION ALL
SELECT 'trigger', c.relname, c.relname || '.' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid),
    CASE WHEN t.tgenabled = 'D' THEN 'disabled' END)
FROM ours AS c JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal
UNION ALL
SELECT 'type', t.typname, t.typname, (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
    FROM pg_enum AS e WHERE e.enumtypid = t.oid)
FROM pg_type AS t WHERE t.typnamespace = to_regnamespace(quote_ident(%(schema)s)) AND t.typtype = 'e'
    AND t.typname = ANY (%(relations)s)
"""

_FUNCTIONS: Final = """
SELECT p.proname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', pg_get_functiondef(p.oid),
    p.prosrc
FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace(quote_ident(%(schema)s)) AND p.prokind IN ('f', 'p')
    AND p.proname = ANY (%(functions)s)
"""


@dataclass(frozen=True, slots=True)
class Index:
    """An index that a component declares, with the statement that makes it."""

    name: str
    table: str
    unique: bool
    statement: str

    def of_partition(self, partition: str) -> Index:
        """The index of one partition of its table, named as `job_run_attach` names it."""
        name = partition + self.name.removeprefix(self.table)
        statement = self.statement.replace(f"{self.name} on {self.table}", f"{name} on {partition}", 1)
        return Index(name, partition, self.unique, statement)


@dataclass(frozen=True, slots=True)
class Declared:
    """The names that a component's SQL declares, and which words its statements about a table hold."""

    relations: frozenset[str]
    tables: frozenset[str]
    functions: frozenset[str]
    named: frozenset[str]
    text: str
    words: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Record:
    """The objects of a component as they were installed: "kind name" to its definition.

    `adopted` are the tables that were in the database before the component's first installation.
    """

    server: int
    objects: Mapping[str, str]
    adopted: tuple[str, ...] = ()

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Record:
        """The record that `jobdeck_schema.catalog` holds."""
        return cls(stored["server"], stored["objects"], tuple(stored["adopted"]))

    def stored(self) -> dict[str, Any]:
        """What `read` reads."""
        return {"server": self.server, "objects": dict(self.objects), "adopted": list(self.adopted)}


@dataclass(frozen=True, slots=True)
class Difference:
    """What in the database is not as it was installed. `changed` gives an object's text then and now."""

    missing: tuple[str, ...] = ()
    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed)


def declared(component: Component) -> Declared:
    """Reads a component's SQL."""
    return _declared(text_of(component))


@lru_cache(maxsize=8)  # one installation asks many times, and the queue's text has half a million characters
def _declared(text: str) -> Declared:
    names: dict[str, set[str]] = {}
    for kind, name in _NAMES.findall(text):
        names.setdefault(kind, set()).add(name)
    tables = frozenset(names.get("table", ()))
    words = _words(text)
    return Declared(
        relations=frozenset().union(*(names.get(kind, set()) for kind in _RELATIONS)),
        tables=tables,
        functions=frozenset(names.get("function", ())),
        named=frozenset(names.get("index", set()) | names.get("trigger", set())),
        text=text,
        words={table: frozenset(words.get(table, ())) for table in tables},
    )


def indexes(component: Component) -> tuple[Index, ...]:
    """The indexes that a component's SQL makes in statements of their own."""
    return tuple(
        Index(found.group(2), found.group(3), bool(found.group(1)), found.group())
        for found in _INDEX.finditer(text_of(component))
    )


def declared_indexes() -> set[str]:
    """The names of the indexes of the queue and the loaded plugins."""
    return {index.name for component in known_components() for index in indexes(component)}


def take(conn: psycopg.Connection[Any], schema: str, component: Component, adopted: tuple[str, ...]) -> Record:
    """Records what is in the database of what a component declares."""
    ours = declared(component)
    objects = {}
    for kind, relation, name, definition in _objects(conn, schema, sorted(ours.relations)):
        if _owns(ours, adopted, kind, relation, name.rpartition(".")[2]):
            objects[f"{kind} {name}"] = _kept(definition)
    for _, signature, definition, body in _functions(conn, schema, sorted(ours.functions)):
        # Another's overload of the same name has another body.
        if body in ours.text:
            objects[f"function {signature}"] = _kept(definition)
    return Record(conn.info.server_version // 10_000, objects, adopted)


def compare(conn: psycopg.Connection[Any], schema: str, record: Record) -> Difference:
    """Compares the database with a record. After an upgrade of Postgres, whose wording may differ, by name only.

    A constraint that has been validated since is not changed.
    """
    texts = _now(conn, schema, record)
    now = {key: _kept(text) for key, text in texts.items()}
    same_server = record.server == conn.info.server_version // 10_000
    return Difference(
        tuple(sorted(key for key in record.objects if key not in now)),
        {
            key: (was, now[key])
            for key, was in sorted(record.objects.items())
            if same_server
            and now.get(key, was) != was
            and not (key.startswith("constraint ") and _kept(f"{texts[key]} NOT VALID") == was)
        },
    )


def present_keys(conn: psycopg.Connection[Any], schema: str, record: Record) -> tuple[str, ...]:
    """The recorded objects that are still in the database."""
    now = _now(conn, schema, record)
    return tuple(key for key in record.objects if key in now)


def _now(conn: psycopg.Connection[Any], schema: str, record: Record) -> dict[str, str]:
    """The objects of today that bear the recorded names, and others on the same relations, with their definitions."""
    relations, functions = set(), set()
    for key in record.objects:
        kind, _, name = key.partition(" ")
        if kind == "function":
            functions.add(name.partition("(")[0])
        elif kind != "index":
            relations.add(name.partition(".")[0])
    found = {f"{kind} {name}": text or "" for kind, _, name, text in _objects(conn, schema, sorted(relations))}
    found |= {f"function {name}": text for _, name, text, _ in _functions(conn, schema, sorted(functions))}
    return found


def invalid_indexes(conn: psycopg.Connection[Any], schema: str, names: list[str]) -> tuple[str, ...]:
    """Which of these indexes are there and not usable: an interrupted CREATE INDEX CONCURRENTLY leaves one."""
    rows = conn.execute(
        """
        SELECT c.relname FROM pg_class AS c JOIN pg_index AS x ON x.indexrelid = c.oid
        WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s)
            AND NOT (x.indisvalid AND x.indisready)
        ORDER BY c.relname
        """,
        [schema, names],
    )
    return tuple(name for (name,) in rows)


def present_tables(conn: psycopg.Connection[Any], schema: str, names: frozenset[str]) -> tuple[str, ...]:
    """Which of these tables are there."""
    rows = conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s)) AND relname = ANY (%s) "
        "AND relkind IN ('r', 'p') ORDER BY relname",
        [schema, sorted(names)],
    )
    return tuple(name for (name,) in rows)


def _objects(conn: psycopg.Connection[Any], schema: str, relations: list[str]) -> list[tuple[str, str, str, str]]:
    with _fixed_wording(conn):
        return conn.execute(_OBJECTS, {"schema": schema, "relations": relations}).fetchall()


def _functions(conn: psycopg.Connection[Any], schema: str, functions: list[str]) -> list[tuple[str, str, str, str]]:
    with _fixed_wording(conn):
        return conn.execute(_FUNCTIONS, {"schema": schema, "functions": functions}).fetchall()


@contextmanager
def _fixed_wording(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Has Postgres word definitions in the same way on every connection. The rollback undoes the settings."""
    with conn.transaction(force_rollback=True):
        conn.execute(_SETTINGS)
        yield


def _owns(ours: Declared, adopted: tuple[str, ...], kind: str, relation: str, name: str) -> bool:
    """Whether an object on a declared relation is the component's, and not the application's own."""
    if kind in {"index", "trigger"}:
        return name in ours.named
    if kind in {"column", "constraint"} and relation in ours.tables:
        made = kind == "constraint" and relation not in adopted and name.startswith(relation)
        return name in ours.words[relation] or (made and _GIVEN_NAME.search(name) is not None)
    return True


def _words(text: str) -> dict[str, set[str]]:
    """The words of the statements that make or alter a table, by its name."""
    words: dict[str, set[str]] = {}
    for pattern in (_MADE, _ALTERED):
        for table, statement in pattern.findall(text):
            words.setdefault(table, set()).update(re.findall(r"\w+", re.sub(r"--.*", "", statement)))
    return words


def _kept(definition: str | None) -> str:
    text = definition or ""
    return text if len(text) <= LONGEST_TEXT else f"md5 {hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"
