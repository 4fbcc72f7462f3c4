"""What an installation runs, as text: for `install`, and for those who run it themselves (`jobdeck init --print`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.schema.catalog import adopting, indexes, recording
from jobdeck.core.schema.components import QUEUE, migrations, queue_component
from jobdeck.core.schema.versions import FIRST_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jobdeck.core.schema.catalog import Index
    from jobdeck.core.schema.components import Component, Migration

HISTORY: Final = "job_runs"
"""The partitioned table. None of its indexes can be built concurrently as a whole."""

_KEPT: Final = (
    "search_path",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "quote_all_identifiers",
    "client_min_messages",
    "lock_timeout",
)
"""The settings that a script changes. It puts them back, because it may be a part of another's transaction."""

_BEGIN: Final = """
SELECT set_config('jobdeck.before', jsonb_object_agg(name, setting)::text, true) FROM pg_settings
WHERE name = ANY ({kept}::text[]);
SELECT set_config('lock_timeout', '2s', true), set_config('jobdeck.roles_prefix', {prefix}, true);
DO $jobdeck$
BEGIN
    IF coalesce(current_setting('jobdeck.before', true), '') = '' THEN
        RAISE EXCEPTION USING errcode = 'JD001', message = 'Run this script in one transaction.';
    END IF;
    IF to_regnamespace(quote_ident({schema})) IS NULL THEN
        EXECUTE format('CREATE SCHEMA %I', {schema}::text);
    END IF;
END
$jobdeck$;
SELECT set_config('search_path', quote_ident({schema}) || ', pg_temp', true);
DO $jobdeck$
DECLARE
    v_version integer;
    v_other text;
BEGIN
    IF to_regclass('jobdeck_schema') IS NOT NULL THEN
        SELECT max(s.version) FILTER (WHERE coalesce(to_jsonb(s) ->> 'component', 'queue') = 'queue'),
            min(to_jsonb(s) ->> 'component') FILTER (WHERE to_jsonb(s) ->> 'component' <> ALL ({components}::text[]))
        INTO v_version, v_other FROM jobdeck_schema AS s;
    END IF;
    IF v_version IS DISTINCT FROM {version} THEN
        RAISE EXCEPTION USING errcode = 'JD001', message = format('The schema %s has %s, and this script is for %s. '
            '"jobdeck init --print --from N" prints the one for version N.', {schema},
            coalesce('version ' || v_version || ' of the queue', 'no queue'),
            coalesce('version ' || {version}::integer, 'a schema without it'));
    END IF;
    IF v_other IS NOT NULL THEN
        RAISE EXCEPTION USING errcode = 'JD001', message = format('The schema %s has the component %s, whose plugin is '
            'not in this script. Print it where that plugin is loaded.', {schema}, v_other);
    END IF;
END
$jobdeck$;
"""

_PATH: Final = "SELECT set_config('search_path', quote_ident({schema}) || ', pg_temp', true);\n"

_END: Final = "SELECT set_config(key, value, true) FROM jsonb_each_text(current_setting('jobdeck.before')::jsonb);\n"

_PERIODS: Final = """
INSERT INTO job_retention (name, component, default_days)
SELECT p.name, {component}, p.days FROM unnest({names}::text[], {days}::integer[]) AS p (name, days)
ON CONFLICT (name) DO UPDATE SET component = excluded.component, default_days = excluded.default_days
"""


@dataclass(frozen=True, slots=True)
class Script:
    """SQL for one transaction; or, unless it is run `together`, statements that run alone, outside a transaction."""

    heading: str
    text: str
    together: bool = True


@dataclass(frozen=True, slots=True)
class _Asked:
    """What `scripts` was called with."""

    components: Sequence[Component]
    schema: str
    version: int | None
    roles: bool
    prefix: str

    def steps(self, phase: str) -> list[Migration]:
        """The migrations of a phase that lead from the database's version to this program's."""
        return [
            step
            for component in self.components
            for step in migrations(component)
            if self.version is not None and step.version > self.version and step.phase == phase
        ]


def files(components: Sequence[Component], left_out: Sequence[Index] = ()) -> Iterator[tuple[str, str]]:
    """The SQL of the components in its order, without some indexes: what each text is, and the text."""
    named = [
        (f"the plugin {component.name}, before the file: {file.name}", file)
        for component in components
        for file in component.sql_before
    ]
    for component in components:
        what = "the file" if component.name == QUEUE else f"the plugin {component.name}"
        named += [(f"{what}: {file.name}", file) for file in component.sql]
    for what, file in named:
        text = file.read_text(encoding="utf-8")
        for index in left_out:
            text = text.replace(index.statement, "")
        yield what, text


def periods(component: Component) -> sql.Composed:
    """The statement that stores a plugin's retention periods. The owner's choice stays."""
    return sql.SQL(_PERIODS).format(
        component=sql.Literal(component.name),
        names=sql.Literal([period.table for period in component.retention]),
        days=sql.Literal([period.days for period in component.retention]),
    )


def scripts(
    components: Sequence[Component],
    *,
    schema: str,
    version: int | None = None,
    roles: bool = False,
    roles_prefix: str | None = None,
) -> tuple[Script, ...]:
    """The SQL that does what `install_schema` does, for a database that nobody has looked at. Needs no connection.

    Args:
        components: what to install.
        schema: the schema that it is installed into, created where it is missing.
        version: the version of the queue that the schema has; None when it has none.
        roles: whether to create the group roles as well.
        roles_prefix: what the names of the group roles begin with; None keeps what was said last, at first `job_`.

    Raises:
        Refused: when no program upgrades this version to that of this program.
    """
    wanted = queue_component().version
    if version is not None and not FIRST_VERSION <= version <= wanted:
        known = f"version {wanted}" if wanted == FIRST_VERSION else f"the versions {FIRST_VERSION} to {wanted}"
        raise Refused(f"No script leads from schema version {version} to {wanted}. This program knows {known}.")
    asked = _Asked(components, schema, version, roles, roles_prefix or "")
    if version is None:
        return (_file(asked, ()),)
    later = [
        index for component in components for index in indexes(component) if not index.unique and index.table != HISTORY
    ]
    online = asked.steps("online")
    made = [_file(asked, later), _outside(schema, later)]
    if online:
        made.insert(0, _together(asked, "before, while jobs run", _texts(online), version))
    made.append(_together(asked, "after, while jobs run", [*_texts(online), *_records(asked, _done(asked))], wanted))
    after = asked.steps("after")
    if after:
        numbers = [*_done(asked), *(step.number for step in after)]
        texts = [*_texts(after), *_records(asked, numbers), ("rights", "SELECT job_grant_roles();\n")]
        made.append(_together(asked, "after the last old worker has stopped", texts, wanted))
    return tuple(made)


def _file(asked: _Asked, left_out: Sequence[Index]) -> Script:
    texts = [("what is there already", _spelled(adopting(asked.schema, one) for one in asked.components))]
    texts += _texts(asked.steps("before"))
    texts += files(asked.components, left_out)
    texts += [
        (f"the plugin {one.name}: retention periods", _spelled([periods(one)]))
        for one in asked.components
        if one.retention
    ]
    texts += _records(asked, _done(asked))
    if asked.roles:
        texts.append(("roles", "SELECT job_make_roles();\n"))
    texts.append(("rights", "SELECT job_grant_roles();\n"))
    return _together(asked, "the file", texts, asked.version)


def _outside(schema: str, later: Sequence[Index]) -> Script:
    """The indexes that the file leaves out, because they may be new and their tables large."""
    path = sql.SQL("SET search_path = {}, pg_temp;\n").format(sql.Identifier(schema)).as_string(None)
    statements = [
        index.statement.replace("create index if", "create index concurrently if", 1) + "\n" for index in later
    ]
    return Script("outside a transaction", "".join([path, *statements, "RESET search_path;\n"]), together=False)


def _together(asked: _Asked, heading: str, texts: Iterable[tuple[str, str]], version: int | None) -> Script:
    """A script for one transaction. It runs only on a schema that has this version."""
    begin = sql.SQL(_BEGIN).format(
        kept=sql.Literal(list(_KEPT)),
        prefix=sql.Literal(asked.prefix),
        schema=sql.Literal(asked.schema),
        components=sql.Literal([component.name for component in asked.components]),
        version=sql.Literal(version),
    )
    parts = [begin.as_string(None), *(f"\n-- ==== {what}\n\n{text}" for what, text in texts), f"\n{_END}"]
    return Script(heading, "".join(parts))


def _done(asked: _Asked) -> list[int]:
    """The numbers of the migrations that need not run any more after the file."""
    waiting = {step.number for step in asked.steps("after")}
    return [
        step.number for component in asked.components for step in migrations(component)
        if step.number not in waiting and (asked.version is None or step.version > asked.version)
    ]  # fmt: skip


def _texts(steps: Iterable[Migration]) -> list[tuple[str, str]]:
    return [(f"{step.phase}: {step.number:03} {step.name}", f"{step.text.rstrip()}\n") for step in steps]


def _records(asked: _Asked, numbers: Sequence[int]) -> list[tuple[str, str]]:
    """The statements that record every component, and put the search path back."""
    path = sql.SQL(_PATH).format(schema=sql.Literal(asked.schema)).as_string(None)
    found = []
    for component in asked.components:
        own = numbers if component.name == QUEUE else ()
        found.append((f"the record of {component.name}", _spelled(recording(asked.schema, component, own))))
    found.append(("the schema again", path))
    return found


def _spelled(statements: Iterable[sql.Composed]) -> str:
    return "".join(f"{statement.as_string(None).strip()};\n" for statement in statements)
