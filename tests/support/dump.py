"""Dumps every table of a database, and searches it for texts in each form in which they could be there."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator, Sequence

from psycopg import sql

from tests.support.queue import Connection

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"(?:\\\\x|\b)((?:[0-9a-fA-F]{2}){16,})\b")


def dumped(conn: Connection) -> dict[str, bytes]:
    """The rows of each table of every schema of the database's own, as COPY writes them, also those of partitions."""
    tables = conn.execute(
        """
        SELECT n.nspname, c.relname, coalesce(p.relname, c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid LEFT JOIN pg_class AS p ON p.oid = i.inhparent
        WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        """
    ).fetchall()
    found: dict[str, bytes] = {}
    for schema, table, whole in tables:
        statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, table))
        with conn.cursor() as cursor, cursor.copy(statement) as rows:
            found[whole] = found.get(whole, b"") + b"".join(bytes(block) for block in rows)
    return found


def places(dump: dict[str, bytes], texts: Sequence[str]) -> dict[str, set[str]]:
    """The tables that have one of the texts, as it is, as hex, as base64 or compressed; with the texts."""
    return {
        table: hits
        for table, content in dump.items()
        if (hits := {text for text in texts if _holds(content, text.encode())})
    }


def _holds(content: bytes, text: bytes) -> bool:
    return any(form in part for part in _parts(content) for form in _forms(text))


def _forms(text: bytes) -> Iterator[bytes]:
    """The text in lower case, its hex, and the part of its base64 that does not depend on what is around it."""
    yield text.lower()
    yield text.hex().encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + text)
        inner = encoded[(before * 8 + 5) // 6 : len(encoded) - len(encoded) % 4 - 4]
        yield inner.lower()


def _parts(content: bytes) -> Iterator[bytes]:
    """The content in lower case, and what can be decompressed in it, from hex and from base64."""
    yield content.lower()
    for encoded in _HEX.findall(content):
        yield from _decompressed(bytes.fromhex(encoded.decode()))
    for encoded in _BASE64.findall(content):
        padded = encoded.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        if len(padded) % 4 != 1:
            yield from _decompressed(base64.b64decode(padded + b"=" * (-len(padded) % 4)))


def _decompressed(content: bytes) -> Iterator[bytes]:
    for form in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        try:
            found = zlib.decompressobj(form).decompress(content, 1_000_000)
        except zlib.error:
            continue
        if found:
            yield found.lower()
