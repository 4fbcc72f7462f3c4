"""A database that belongs to an application, and a picture of everything in it that is not the queue's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psycopg import sql

from tests.support.queue import Connection

SQL = Path(__file__).with_suffix(".sql")

RELATIONS = """
    SELECT c.oid::regclass::text, jsonb_build_object(
        'kind', c.relkind, 'owner', c.relowner::regrole, 'rights', c.relacl, 'options', c.reloptions,
        'security', c.relrowsecurity,
        'columns', (SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attacl, (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
                WHERE adrelid = a.attrelid AND adnum = a.attnum)) ORDER BY a.attnum)
            FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0),
        'constraints', (SELECT jsonb_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname)
            FROM pg_constraint AS k WHERE k.conrelid = c.oid),
        'triggers', (SELECT jsonb_agg(pg_get_triggerdef(t.oid) ORDER BY t.tgname)
            FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal),
        'index', CASE WHEN c.relkind = 'i' THEN pg_get_indexdef(c.oid) END)
    FROM pg_class AS c WHERE c.oid = ANY (%s)
"""
FUNCTIONS = """
    SELECT p.oid::regprocedure::text, jsonb_build_array(pg_get_functiondef(p.oid), p.proowner::regrole, p.proacl)
    FROM pg_proc AS p WHERE p.oid = ANY (%s)
"""
TYPES = """
    SELECT t.oid::regtype::text, jsonb_build_array(t.typowner::regrole, t.typacl,
        (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e WHERE e.enumtypid = t.oid))
    FROM pg_type AS t WHERE t.oid = ANY (%s)
"""


class Application:
    """The objects that were in the database when this was made."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._oids = {
            "pg_class": self._column("SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
            "pg_proc": self._column("SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace"),
            "pg_type": self._column("SELECT oid FROM pg_type WHERE typnamespace = 'public'::regnamespace"),
        }
        self._before = self._picture()

    @property
    def relations(self) -> set[int]:
        return set(self._oids["pg_class"])

    def assert_untouched(self) -> None:
        """Fails where a definition, an owner, a right or a row is another than before."""
        assert self._picture() == self._before

    def _picture(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "rights": self._column("SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'")
        }
        for catalog, query in (("pg_class", RELATIONS), ("pg_proc", FUNCTIONS), ("pg_type", TYPES)):
            found |= {f"{catalog} {name}": facts for name, facts in self._conn.execute(query, [self._oids[catalog]])}
        tables = self._column(
            "SELECT relname FROM pg_class WHERE oid = ANY (%s) AND relkind = 'r'", self._oids["pg_class"]
        )
        for table in tables:
            rows = sql.SQL("SELECT to_jsonb(t) FROM public.{} AS t ORDER BY 1").format(sql.Identifier(table))
            found[f"rows {table}"] = self._column(rows)
        return found

    def _column(self, query: Any, *params: Any) -> list[Any]:
        return [row[0] for row in self._conn.execute(query, params or None)]
