"""`init`: installs or upgrades the schema."""

from __future__ import annotations

import click

from jobdeck.core.cli.session import Session, command, dry_run_option
from jobdeck.core.errors import SchemaMismatch


@command("init")
@click.option("--roles", is_flag=True, help="Create the group roles job_viewer, job_operator and job_worker as well.")
@dry_run_option
def init(session: Session, roles: bool, dry_run: bool) -> None:
    """Install or upgrade the schema; safe to repeat, and over the original application's tables."""
    from jobdeck.core import schema  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.postgres.database import open_database  # noqa: PLC0415 -- imported on first use

    with (
        open_database(session.settings, application_name="jobdeck cli") as database,
        database.connection() as conn,
    ):
        before, wanted = schema.installed_version(conn), schema.schema_version()
        if before is not None and before > wanted:
            schema.check_schema(conn)
            raise SchemaMismatch("The database's schema is newer than this program. Upgrade Jobdeck.")
        if not dry_run:
            schema.install_schema(conn, roles=roles)
    was = f"was version {before}" if before is not None else "had no schema"
    verb = "would be" if dry_run else "is"
    session.answer(
        {"database": database.label, "version_before": before, "version": before if dry_run else wanted,
         "roles": roles and not dry_run, "dry_run": dry_run},
        [f"The schema of {database.label} {verb} at version {wanted} (it {was})."],
    )  # fmt: skip
