"""Who besides the queue's owner can create objects in the queue's schema, or has done so.

Jobdeck's functions run with the rights of their owner and find other objects through that schema. A function
`format(text, text)` there is taken before that of Postgres, because its arguments match better, so a role that may
create it acts as the owner. No search path prevents that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import Refused
from jobdeck.core.redact import clean
from jobdeck.core.schema.catalog import declared
from jobdeck.core.schema.components import queue_component

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from jobdeck.core.schema.components import Component

_OWNERS: Final = """
SELECT DISTINCT r.rolname FROM pg_roles AS r
WHERE %(installing)s AND r.rolname = current_user OR r.oid IN (
    SELECT p.proowner FROM pg_proc AS p WHERE p.prosecdef AND p.proname = ANY (%(functions)s)
        AND p.pronamespace = to_regnamespace(quote_ident(%(schema)s)))
ORDER BY 1
"""

# A superuser is a member of every role. The owner of the database is the one member of pg_database_owner.
_CREATORS: Final = """
SELECT r.rolname, c.owns, c.grantable
FROM (
    SELECT n.nspowner, true, false FROM pg_namespace AS n WHERE n.nspname = %(schema)s
    UNION ALL
    SELECT a.grantee, false, a.is_grantable FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
    WHERE n.nspname = %(schema)s AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
) AS c (role, owns, grantable)
JOIN pg_database AS d ON d.datname = current_database()
CROSS JOIN LATERAL (
    SELECT CASE c.role WHEN 'pg_database_owner'::regrole THEN d.datdba ELSE c.role END AS member
) AS m
LEFT JOIN pg_roles AS r ON r.oid = CASE WHEN c.owns THEN m.member ELSE c.role END
WHERE c.role = 0 OR EXISTS (
    SELECT FROM unnest(%(owners)s::text[]) AS o WHERE NOT pg_has_role(m.member, o, 'member'))
ORDER BY c.role <> 0, 1
"""

_PLANTED: Final = """
SELECT f.kind, f.name, pg_get_userbyid(f.owner) FROM (
    SELECT 'ROUTINE', format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
        p.proowner
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = %(schema)s AND (p.proname = ANY (%(functions)s) OR EXISTS (
        SELECT FROM pg_proc AS s WHERE s.pronamespace = 'pg_catalog'::regnamespace AND s.proname = p.proname))
    UNION ALL
    SELECT 'OPERATOR', format('%%I.%%s (%%s, %%s)', n.nspname, o.oprname,
        CASE o.oprleft WHEN 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END, format_type(o.oprright, NULL)),
        o.oprowner
    FROM pg_operator AS o JOIN pg_namespace AS n ON n.oid = o.oprnamespace WHERE n.nspname = %(schema)s
    UNION ALL
    SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
        format('%%I.%%I', n.nspname, c.relname), c.relowner
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'S', 'f', 'm') AND c.relname = ANY (%(relations)s)
) AS f (kind, name, owner)
WHERE EXISTS (SELECT FROM unnest(%(owners)s::text[]) AS o WHERE NOT pg_has_role(f.owner, o, 'member'))
ORDER BY 1, 2 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Creator:
    """A role that may create in the schema: as its owner (`owns`), or by a grant that it may pass on or not.

    `role` is None for PUBLIC.
    """

    role: str | None
    owns: bool
    grantable: bool


def refuse_other_creators(conn: psycopg.Connection[Any], components: Sequence[Component], schema: str) -> None:
    """Returns when only the installing role, the owner of the queue's functions and superusers can create there.

    Raises:
        Refused: otherwise, with the statement that changes it.
    """
    found = other_creators(conn, components, schema, installing=True)
    if found is not None:
        raise Refused(f"{found} Nothing was changed; run `jobdeck init` again after that.")


def other_creators(
    conn: psycopg.Connection[Any], components: Sequence[Component], schema: str, *, installing: bool = False
) -> str | None:
    """Says who can act as the queue's owner through its schema, and which statement prevents that; None for nobody.

    With `installing`, the current role counts as an owner, because it will own the functions that it installs.
    """
    names = [declared(component) for component in components]
    about: dict[str, object] = {
        "schema": schema,
        "installing": installing,
        "functions": sorted(name for one in names for name in one.functions),
        # A plugin's tables may have been there before, and their owners are trusted.
        "relations": sorted(declared(queue_component()).relations),
    }
    owners = [str(name) for (name,) in conn.execute(_OWNERS, about).fetchall()]
    if not owners:
        return None
    about["owners"] = owners
    creators = [Creator(*row) for row in conn.execute(_CREATORS, about).fetchall()]
    owned = next((creator.role for creator in creators if creator.owns and creator.role), None)
    if owned is not None:
        return _owned(conn, schema, owned, owners)
    if creators:
        return _granted(conn, schema, creators, owners[0])
    planted = conn.execute(_PLANTED, about).fetchone()
    return None if planted is None else _planted(conn, *planted, owner=owners[0])


def _owned(conn: psycopg.Connection[Any], schema: str, role: str, owners: Sequence[str]) -> str:
    owner = next(one for one in owners if one != role)
    if role in owners:
        return (
            f"The schema {clean(schema)} and the queue in it belong to the role {clean(role)}. What {clean(owner)} "
            f"installs would belong to {clean(owner)}, and {clean(role)} could act as {clean(owner)} through the "
            f"schema: install as {clean(role)}."
        )
    return (
        f"The schema {clean(schema)} belongs to the role {clean(role)}, which can create functions in it and so act as "
        f"{clean(owner)}, the owner of the queue: install as {clean(role)}, or run "
        f"`ALTER SCHEMA {_quoted(conn, schema)} OWNER TO {_quoted(conn, owner)};`."
    )


def _granted(conn: psycopg.Connection[Any], schema: str, creators: Sequence[Creator], owner: str) -> str:
    name = _quoted(conn, schema)
    roles = ", ".join("PUBLIC" if one.role is None else _quoted(conn, one.role) for one in creators)
    cascade = " CASCADE" if any(creator.grantable for creator in creators) else ""
    return (
        f"The grant CREATE ON SCHEMA {name} TO {roles} lets others create functions in the queue's schema and so act "
        f"as {clean(owner)}, the owner of the queue: run `REVOKE CREATE ON SCHEMA {name} FROM {roles}{cascade};`."
    )


def _planted(conn: psycopg.Connection[Any], kind: str, name: str, role: str, *, owner: str) -> str:
    way_out = f"look at it, then run `DROP {kind} {clean(name)};`"
    if kind not in {"ROUTINE", "OPERATOR"}:
        # It may hold somebody's rows.
        way_out = f"look at its triggers, then run `ALTER {kind} {clean(name)} OWNER TO {_quoted(conn, owner)};`"
    return (
        f"The {kind.lower()} {clean(name)} in the queue's schema belongs to the role {clean(role)}, which can act as "
        f"{clean(owner)}, the owner of the queue, through it: {way_out}."
    )


def _quoted(conn: psycopg.Connection[Any], name: str) -> str:
    """The name as SQL writes it, with quotes only where it needs them."""
    row = conn.execute("SELECT quote_ident(%s)", [name]).fetchone()
    return clean(row[0]) if row else clean(name)
