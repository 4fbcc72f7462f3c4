"""What a component has put into the database, object by object, to find out what was altered by hand."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from jobdeck.core.schema.components import QUEUE, checksum, known_components, serves_from, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
_QUOTED: Final = re.compile(r"\$(\w*)\$(.*?)\$\1\$", re.DOTALL)
_RELATIONS: Final = ("table", "view", "type", "sequence")
LONGEST_TEXT: Final = 160
"""A definition up to this length is kept as it is, so that a message can quote it; a longer one as its digest."""

# With these, Postgres words definitions in the same way on every connection.
_SETTINGS: Final = sql.SQL("""
SELECT set_config(name, value, true) FROM (VALUES ('search_path', 'pg_catalog'), ('TimeZone', 'UTC'),
    ('DateStyle', 'ISO'), ('IntervalStyle', 'postgres'), ('quote_all_identifiers', 'off')) AS fixed (name, value)
""").format()

# Every object that has one of the names, or is on a relation that has: its definition, and the one that it had as a
# constraint that was not validated.
_OBJECTS: Final = """
WITH ours AS (
    SELECT c.oid, c.relname, c.relkind FROM pg_class AS c
    WHERE c.relnamespace = to_regnamespace(quote_ident({schema})) AND c.relname = ANY ({relations}::text[])
), found (kind, relation, name, definition, body) AS (
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'table' END,
        c.relname::text, c.relname::text, CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) ELSE c.relkind::text END,
        NULL
    FROM ours AS c WHERE c.relkind IN ('r', 'p', 'v', 'c', 'S')
    UNION ALL
    SELECT 'column', c.relname, c.relname || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'not null' END, 'default ' || pg_get_expr(d.adbin, d.adrelid),
        nullif(a.attidentity, ''), nullif(a.attgenerated, '')), NULL
    FROM ours AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind IN ('r', 'p', 'c')
    UNION ALL
    SELECT 'constraint', c.relname, c.relname || '.' || k.conname, pg_get_constraintdef(k.oid), NULL
    FROM ours AS c JOIN pg_constraint AS k ON k.conrelid = c.oid WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT 'index', c.relname, i.relname, pg_get_indexdef(x.indexrelid), NULL
    FROM ours AS c JOIN pg_index AS x ON x.indrelid = c.oid JOIN pg_class AS i ON i.oid = x.indexrelid
    WHERE NOT EXISTS (
        SELECT FROM pg_constraint AS k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT 'trigger', c.relname, c.relname || '.' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid),
        CASE WHEN t.tgenabled = 'D' THEN 'disabled' END), NULL
    FROM ours AS c JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT 'type', t.typname, t.typname, (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
        FROM pg_enum AS e WHERE e.enumtypid = t.oid), NULL
    FROM pg_type AS t WHERE t.typnamespace = to_regnamespace(quote_ident({schema})) AND t.typtype = 'e'
        AND t.typname = ANY ({relations}::text[])
    UNION ALL
    SELECT 'function', p.proname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
        pg_get_functiondef(p.oid), p.prosrc
    FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace(quote_ident({schema})) AND p.prokind IN ('f', 'p')
        AND p.proname = ANY ({functions}::text[])
), objects AS (
    SELECT f.kind, f.relation, f.name, f.kind || ' ' || n AS key, md5(convert_to(f.body, 'UTF8')) AS body,
        CASE WHEN length(d) <= {longest} THEN d ELSE 'md5 ' || md5(convert_to(d, 'UTF8')) END AS definition,
        CASE WHEN length(u) <= {longest} THEN u ELSE 'md5 ' || md5(convert_to(u, 'UTF8')) END AS unvalidated
    FROM found AS f, coalesce(replace(f.name, quote_ident({schema}) || '.', {was} || '.'), f.name) AS n,
        coalesce(replace(f.definition, quote_ident({schema}) || '.', {was} || '.'), f.definition, '') AS d,
        concat(d, ' NOT VALID') AS u
)"""

_COMPARED: Final = "{objects} SELECT key, definition, unvalidated FROM objects"

_RECORDED: Final = """
{objects}, before AS (
    SELECT coalesce(
        (SELECT t.catalog -> 'adopted' FROM {table} AS t WHERE t.component = {component} AND t.catalog IS NOT NULL
            ORDER BY t.version DESC LIMIT 1),
        nullif(current_setting('jobdeck.adopted', true), '')::jsonb -> {component}, '[]') AS adopted,
        ARRAY(SELECT n FROM {table} AS t, unnest(t.migrations) AS n WHERE t.component = {component}
            UNION SELECT unnest({migrations}::integer[]) ORDER BY 1) AS migrations,
        {words}::jsonb AS words
), owned AS (
    SELECT o.key, o.definition FROM before AS b, objects AS o, regexp_replace(o.name, '^.*[.]', '') AS own
    WHERE CASE
        -- Another's overload of the same name has another body. Bodies that are expressions have no text.
        WHEN o.kind = 'function' THEN o.body = ANY ({bodies}::text[])
        WHEN o.kind IN ('index', 'trigger') THEN own = ANY ({named}::text[])
        WHEN o.kind IN ('column', 'constraint') AND b.words -> o.relation IS NOT NULL THEN
            b.words -> o.relation @> to_jsonb(own)
            OR o.kind = 'constraint' AND NOT b.adopted @> to_jsonb(o.relation) AND starts_with(own, o.relation)
                AND own ~ '_(pkey|key|check|fkey|excl)[0-9]*$'
        ELSE true END
)
INSERT INTO {table} (component, version, checksum, catalog, serves_from, migrations)
SELECT {component}, {version}, {checksum}, jsonb_build_object(
        'server', current_setting('server_version_num')::integer / 10000,
        'objects', (SELECT coalesce(jsonb_object_agg(key, definition), '{{}}') FROM owned), 'adopted', b.adopted),
    {serves_from}, b.migrations
FROM before AS b
ON CONFLICT (component, version) DO UPDATE SET checksum = excluded.checksum, catalog = excluded.catalog,
    serves_from = excluded.serves_from, migrations = excluded.migrations
"""

_ADOPTED: Final = """
SELECT set_config('jobdeck.adopted', (coalesce(nullif(current_setting('jobdeck.adopted', true), ''), '{{}}')::jsonb
    || jsonb_build_object({component}::text, (
        SELECT coalesce(jsonb_agg(c.relname ORDER BY c.relname), '[]') FROM pg_class AS c
        WHERE c.relnamespace = to_regnamespace(quote_ident({schema})) AND c.relname = ANY ({tables}::text[])
            AND c.relkind IN ('r', 'p') AND NOT ({is_queue} AND EXISTS (SELECT FROM pg_class AS v
                WHERE v.relnamespace = c.relnamespace AND v.relname = 'jobdeck_schema')))))::text, true)
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
    """The names that a component's SQL declares, digests of its functions' bodies, and the words about each table."""

    relations: frozenset[str]
    tables: frozenset[str]
    functions: frozenset[str]
    named: frozenset[str]
    bodies: frozenset[str]
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
        bodies=frozenset(_bodies(text)),
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


def recording(schema: str, component: Component, migrations: Sequence[int]) -> tuple[sql.Composed, ...]:
    """The statements that write a component's row in `jobdeck_schema`, with the objects that are in the database now.

    They run in one transaction, and change its search path. `migrations` are those that have run or were not needed;
    those of an earlier row stay.
    """
    ours = declared(component)
    about = {
        "named": sorted(ours.named),
        "bodies": sorted(ours.bodies),
        "words": json.dumps({table: sorted(words) for table, words in ours.words.items()}),
        "component": component.name,
        "version": component.version,
        "checksum": checksum(component),
        "serves_from": serves_from(component),
        "migrations": list(migrations),
    }
    statement = sql.SQL(_RECORDED).format(
        objects=_objects(schema, ours.relations, ours.functions),
        table=sql.Identifier(schema, "jobdeck_schema"),
        **{name: sql.Literal(value) for name, value in about.items()},
    )
    return _SETTINGS, statement


def adopting(schema: str, component: Component) -> sql.Composed:
    """The statement that notes, before the first installation in its transaction, which tables are there already."""
    return sql.SQL(_ADOPTED).format(
        component=sql.Literal(component.name),
        schema=sql.Literal(schema),
        tables=sql.Literal(sorted(declared(component).tables)),
        is_queue=sql.Literal(component.name == QUEUE),
    )


def compare(conn: psycopg.Connection[Any], schema: str, record: Record, *, was: str | None = None) -> Difference:
    """Compares the database with a record. After an upgrade of Postgres, whose wording may differ, by name only.

    A constraint that has been validated since is not changed. `was` is the name of the schema, as SQL writes it, when
    the record was made, if it had another one then: that name alone is no difference.
    """
    now = _now(conn, schema, record, was)
    same_server = record.server == conn.info.server_version // 10_000
    return Difference(
        tuple(sorted(key for key in record.objects if key not in now)),
        {
            key: (was, now[key][0])
            for key, was in sorted(record.objects.items())
            if same_server
            and key in now
            and was != now[key][0]
            and not (key.startswith("constraint ") and was == now[key][1])
        },
    )


def accept(conn: psycopg.Connection[Any], schema: str, component: str, record: Record) -> None:
    """Writes into a component's record what differs from it in the database now."""
    found = compare(conn, schema, record)
    if not found:
        return
    changed = json.dumps({key: now for key, (_, now) in found.changed.items()})
    conn.execute(
        """
        UPDATE jobdeck_schema AS s SET catalog = jsonb_set(s.catalog, '{objects}',
            (s.catalog -> 'objects') - %(missing)s::text[] || %(changed)s::jsonb)
        WHERE s.component = %(component)s AND s.version = (SELECT max(t.version) FROM jobdeck_schema AS t
            WHERE t.component = s.component AND t.catalog IS NOT NULL)
        """,
        {"missing": list(found.missing), "changed": changed, "component": component},
    )


def present_keys(conn: psycopg.Connection[Any], schema: str, record: Record) -> tuple[str, ...]:
    """The recorded objects that are still in the database."""
    now = _now(conn, schema, record)
    return tuple(key for key in record.objects if key in now)


def _now(
    conn: psycopg.Connection[Any], schema: str, record: Record, was: str | None = None
) -> dict[str, tuple[str, str]]:
    """The objects of today that bear the recorded names, and others on the same relations.

    Each with its definition, and the one that it had as a constraint that was not validated.
    """
    relations, functions = set(), set()
    for key in record.objects:
        kind, _, name = key.partition(" ")
        if kind == "function":
            functions.add(name.partition("(")[0])
        elif kind != "index":
            relations.add(name.partition(".")[0])
    statement = sql.SQL(_COMPARED).format(objects=_objects(schema, relations, functions, was))
    # The rollback undoes the settings.
    with conn.transaction(force_rollback=True):
        conn.execute(_SETTINGS)
        return {key: (definition, unvalidated) for key, definition, unvalidated in conn.execute(statement)}


def _objects(schema: str, relations: Iterable[str], functions: Iterable[str], was: str | None = None) -> sql.Composed:
    return sql.SQL(_OBJECTS).format(
        schema=sql.Literal(schema),
        was=sql.Literal(was),
        relations=sql.Literal(sorted(relations)),
        functions=sql.Literal(sorted(functions)),
        longest=sql.Literal(LONGEST_TEXT),
    )


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


def _words(text: str) -> dict[str, set[str]]:
    """The words of the statements that make or alter a table, by its name."""
    words: dict[str, set[str]] = {}
    for pattern in (_MADE, _ALTERED):
        for table, statement in pattern.findall(text):
            words.setdefault(table, set()).update(re.findall(r"\w+", re.sub(r"--.*", "", statement)))
    return words


def _bodies(text: str) -> Iterator[str]:
    """The digests of all bodies of functions, also of those that are in a block. An expression has an empty body."""
    yield hashlib.md5(b"", usedforsecurity=False).hexdigest()
    for _, body in _QUOTED.findall(text):
        yield hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
        yield from _bodies(body)
