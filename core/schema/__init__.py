"""The schema in the database: its versions, its installation and its removal."""

from __future__ import annotations

from jobdeck.core.schema.catalog import declared_indexes
from jobdeck.core.schema.components import known_components, schema_text, schema_version
from jobdeck.core.schema.drop import Owned, drop_schema, owned_objects
from jobdeck.core.schema.examination import Examined, examine
from jobdeck.core.schema.install import install_schema, schema_of
from jobdeck.core.schema.plan import Plan, plan_installation, running_jobs
from jobdeck.core.schema.script import Script, scripts
from jobdeck.core.schema.versions import (
    HELD,
    NOTHING,
    check_schema,
    holdings,
    installed_version,
    is_current,
    not_loaded,
    open_checked,
    unreleased_version,
)

__all__ = [
    "HELD",
    "NOTHING",
    "Examined",
    "Owned",
    "Plan",
    "Script",
    "check_schema",
    "declared_indexes",
    "drop_schema",
    "examine",
    "holdings",
    "install_schema",
    "installed_version",
    "is_current",
    "known_components",
    "not_loaded",
    "open_checked",
    "owned_objects",
    "plan_installation",
    "running_jobs",
    "schema_of",
    "schema_text",
    "schema_version",
    "scripts",
    "unreleased_version",
]
