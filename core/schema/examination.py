"""What `doctor` says of an installed schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobdeck.core.redact import clean
from jobdeck.core.schema.catalog import compare
from jobdeck.core.schema.components import QUEUE, checksum, known_components, migrations
from jobdeck.core.schema.creators import other_creators
from jobdeck.core.schema.install import outdated_workers, schema_of
from jobdeck.core.schema.versions import holdings, not_loaded, records

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found.

    `newer` are components of a later version that serve this program, `unrecorded` those that `jobdeck init` did
    not install, `edited` those of this version whose SQL is not this program's. `altered` says which objects are
    not as they were installed, `waiting` which migrations wait for whose end. `creators` says who besides the owner
    can create in the queue's schema, and how to prevent it; None when nobody can.
    """

    version: int
    newer: tuple[str, ...]
    unrecorded: tuple[str, ...]
    edited: tuple[str, ...]
    unloaded: tuple[str, ...]
    altered: tuple[str, ...]
    waiting: tuple[str, ...]
    creators: str | None


def examine(conn: psycopg.Connection[Any]) -> Examined:
    """Looks at a schema that `check_schema` accepts."""
    held = holdings(conn)
    pairs = [(component, held.components[component.name]) for component in known_components()]
    same = [(component, installed) for component, installed in pairs if installed.version == component.version]
    return Examined(
        version=held.components[QUEUE].version,
        newer=tuple(component.name for component, installed in pairs if installed.version > component.version),
        unrecorded=tuple(component.name for component, installed in pairs if installed.checksum is None),
        edited=tuple(
            component.name for component, installed in same if installed.checksum not in {None, checksum(component)}
        ),
        unloaded=not_loaded(held),
        altered=_altered(conn),
        waiting=_waiting(conn),
        creators=other_creators(conn, known_components(), schema_of(conn)),
    )


def _altered(conn: psycopg.Connection[Any]) -> tuple[str, ...]:
    schema = schema_of(conn)
    found: list[str] = []
    for record in records(conn).values():
        difference = compare(conn, schema, record)
        found += [f"{clean(key)} differs" for key in difference.changed]
        found += [f"{clean(key)} is missing" for key in difference.missing]
    return tuple(found)


def _waiting(conn: psycopg.Connection[Any]) -> tuple[str, ...]:
    held = holdings(conn).components
    found: list[str] = []
    for component in known_components():
        steps = [step for step in migrations(component) if step.number not in held[component.name].migrations]
        if steps and held[component.name].checksum is not None:
            old = ", ".join(clean(worker) for worker in outdated_workers(conn)) or "nothing any more"
            found += [f"{step.number:03} {step.name} waits for {old}" for step in steps]
    return tuple(found)
