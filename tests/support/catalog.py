"""What a database consists of, as text: two databases with the same catalog were made by the same statements."""

from __future__ import annotations

from tests.support.queue import Connection

_CATALOG = """
SELECT 'column', c.relname || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attnotnull THEN 'not null' END, pg_get_expr(d.adbin, d.adrelid), a.attidentity)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'c')
UNION ALL
SELECT 'relation', c.relname, concat_ws(' ', c.relkind, c.reloptions::text, c.relrowsecurity::text,
    c.relforcerowsecurity::text)
FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'view', c.relname, pg_get_viewdef(c.oid)
FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v'
UNION ALL
SELECT 'index', c.relname, pg_get_indexdef(c.oid)
FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('i', 'I')
UNION ALL
SELECT 'constraint', coalesce(c.conrelid::regclass::text, '') || '.' || c.conname, pg_get_constraintdef(c.oid)
FROM pg_constraint AS c WHERE c.connamespace = 'public'::regnamespace AND c.contype <> 'n'
UNION ALL
SELECT 'trigger', t.tgrelid::regclass::text || '.' || t.tgname, pg_get_triggerdef(t.oid)
FROM pg_trigger AS t WHERE NOT t.tgisinternal
UNION ALL
SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'policy', p.polrelid::regclass::text || '.' || p.polname, concat_ws(' ', p.polcmd, p.polroles::regrole[]::text,
    pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_policy AS p
"""

_GRANTS = """
SELECT 'grant on relation', c.relname, (SELECT string_agg(g::text, ' ' ORDER BY g::text) FROM unnest(c.relacl) AS g)
FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'grant on function', p.oid::regprocedure::text,
    (SELECT string_agg(g::text, ' ' ORDER BY g::text) FROM unnest(p.proacl) AS g)
FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
"""


def catalog(conn: Connection) -> dict[tuple[str, str], str]:
    """Everything in the schema `public` by its kind and name, each as the text that would make it."""
    found = conn.execute(_CATALOG).fetchall() + conn.execute(_GRANTS).fetchall()
    return {(kind, name): text or "" for kind, name, text in found}
