"""The settings from the environment and the configuration file, as one `Settings` object.

The environment takes precedence over the file; an empty variable counts as unset. A setting that the predecessor had
keeps its name there; all others are called `JOBDECK_…`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from jobdeck.core import config_file
from jobdeck.core.errors import ConfigurationError, EmbeddedPostgresError
from jobdeck.core.plugins import load_plugins

SHARED_STATE: Final = Path("/var/lib/jobdeck")
DATABASES: Final = "JOBDECK_DATABASES"
"""The setting that lists several databases: in the configuration file, a table of this name."""


def names(*variables: str) -> Any:
    """The environment variables of a field; the first one that is set is used."""
    return AliasChoices(*variables)


def schema_name(name: str) -> str:
    """Checks the name of a schema and returns it. `NAME.job_queue` must fit into the 63 bytes of a NOTIFY channel.

    Raises:
        ValueError: it is not a plain name in lower case.
    """
    if re.fullmatch(r"[a-z_][a-z0-9_]{0,49}", name, re.ASCII) is None or name.startswith("pg_"):
        raise ValueError("must be a plain name in lower case, like jobs: letters, digits and _, 50 at most, not pg_…")
    return name


def host_and_port(address: str) -> str:
    """Checks an address to listen on and returns it.

    Raises:
        ValueError: it is not a host and a port.
    """
    host, _, port = address.rpartition(":")
    if not (host and address.isascii() and port.isdecimal() and int(port) < 65_536):
        raise ValueError("must be a host and a port, like 127.0.0.1:9464")
    return address


def named_addresses(value: Any) -> Any:
    """Checks the names of a list of databases and returns it; JSON text, as in the environment, is parsed first.

    Raises:
        ValueError: it is not an object, or a name is not a plain one.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        words = 'must be a table of names and addresses; in the environment {"orders": "postgresql://…"}'
        raise ValueError(words)  # noqa: TRY004 -- pydantic shows the sentence of a ValueError
    for name in value:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name, re.ASCII) is None:
            raise ValueError("must have plain names, like orders: letters, digits, dots, _ and -, 40 at most")
    return value


class FileSettings(BaseSettings):
    """The base of the queue's settings and of a plugin's: read from the environment, then the configuration file."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", populate_by_name=True, frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments take precedence over the environment, and the environment over the configuration file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=_from_file())


S = TypeVar("S", bound=BaseSettings)


class OtelSettings(FileSettings):
    """What a producer reads too, which a wrong setting of the worker must not stop."""

    otel: bool = Field(False, validation_alias=names("JOBDECK_OTEL"))
    """Record traces and metrics by OpenTelemetry; needs the extra `otel` and the variables `OTEL_…` of its exporter."""


class Settings(OtelSettings):
    """All settings of the queue, with their defaults. Times are in seconds and may have fractions."""

    _plugins: dict[type[BaseSettings], BaseSettings] = PrivateAttr(default_factory=dict)

    database_url: SecretStr | None = Field(None, validation_alias=names("DATABASE_URL"))
    """The Postgres to work on, 15 or newer; workers connect directly, where that is possible, and not through a pooler.
    Unset: the embedded database (extra `embedded`); `worker`, `run-worker` and `serve` then need `--embedded`."""
    database_schema: str = Field("public", validation_alias=names("JOBDECK_SCHEMA"))
    """The schema that holds the queue: a plain name in lower case."""
    databases: Annotated[dict[str, SecretStr], NoDecode] = Field({}, validation_alias=names(DATABASES))
    """Several databases by name, for `jobdeck fleet` and its page: a table in the configuration file, and in the
    environment an object like `{"orders": "postgresql://…"}`."""

    environment: str = Field("", validation_alias=names("JOBDECK_ENV"))
    """Label of the database. With `prod`, `production` or `live` the dashboard is red and asks more strictly, and
    health warns of series that run dry."""
    state_dir: Path | None = Field(None, validation_alias=names("JOBDECK_STATE_DIR"))
    """Where the embedded database and logs are. Unset: `/var/lib/jobdeck` for root, else `~/.local/state/jobdeck`."""
    handlers: str = Field("", validation_alias=names("JOBDECK_HANDLERS"))
    """Importable modules, comma separated, whose `@job` functions join the task types."""
    concurrency: int = Field(4, ge=1, le=256, validation_alias=names("JOBDECK_CONCURRENCY"))
    """Jobs of thread handlers that one worker runs at a time."""
    async_concurrency: int = Field(100, ge=1, le=10_000, validation_alias=names("JOBDECK_ASYNC_CONCURRENCY"))
    """Jobs of async handlers that one worker runs at a time."""
    async_connections: int = Field(8, ge=1, le=256, validation_alias=names("JOBDECK_ASYNC_CONNECTIONS"))
    """Database connections that the async handlers of one worker share (`ctx.adb()`)."""
    process_concurrency: int = Field(2, ge=1, le=256, validation_alias=names("JOBDECK_PROCESS_CONCURRENCY"))
    """Jobs with `isolation="process"` that one worker runs at a time, in a process each: the number of cores to use."""
    lease_seconds: float = Field(60.0, gt=0, le=3600, validation_alias=names("JOBDECK_LEASE_SECONDS"))
    """How long a claim holds without a heartbeat."""
    heartbeat_seconds: float = Field(20.0, gt=0, le=1200, validation_alias=names("JOBDECK_HEARTBEAT_SECONDS"))
    """How often a worker renews its leases; at most half a lease."""
    retry_base_seconds: float = Field(30.0, ge=0, validation_alias=names("JOBDECK_RETRY_BASE_SECONDS"))
    """Delay before the second attempt; it doubles with each one."""
    retry_cap_seconds: float = Field(3600.0, ge=0, validation_alias=names("JOBDECK_RETRY_CAP_SECONDS"))
    """The longest delay between attempts."""
    drain_seconds: float = Field(30.0, ge=0, validation_alias=names("JOBDECK_DRAIN_SECONDS"))
    """How long a stopping worker lets jobs finish before it hands them back."""
    theme: Literal["", "dark", "light", "contrast", "ansi-dark", "ansi-light"] = Field(
        "", validation_alias=names("JOBDECK_THEME")
    )
    """Colours of the dashboard; `ansi-dark` and `ansi-light` are the terminal's own 16."""
    log_format: Literal["text", "json"] = Field("text", validation_alias=names("JOBDECK_LOG_FORMAT"))
    """How log lines are written."""
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", validation_alias=names("JOBDECK_LOG_LEVEL"))
    """The least that is logged; the stored logs of runs are from `info` on."""
    log_file: Path | None = Field(None, validation_alias=names("JOBDECK_LOG_FILE"))
    """Log to this file as well."""
    sentry_dsn: SecretStr | None = Field(None, validation_alias=names("SENTRY_DSN"))
    """Where failures that need a person are reported, tagged `job_runner`; needs the extra `sentry`."""
    sentry_release: str = Field("", validation_alias=names("SENTRY_RELEASE"))
    """Release of the application, which alerts and workers name. Unset: `jobdeck@` and the version."""
    sentry_check_ins: bool = Field(False, validation_alias=names("SENTRY_CHECK_INS"))
    """Each recurring job checks in with a cron monitor of its own at Sentry."""

    cron_secret: SecretStr | None = Field(None, validation_alias=names("CRON_SECRET"))
    """Bearer token of `/api/jobs/run`, 16 characters at least (`openssl rand -hex 32`); without it every call is
    refused, and with a placeholder `jobdeck serve` does not start."""
    cron_interval_minutes: int | None = Field(None, ge=1, le=1440, validation_alias=names("CRON_INTERVAL_MINUTES"))
    """Minutes between two calls of a scheduler; health counts in it. Unset: as the database says, at first 5."""
    cron_budget_seconds: float = Field(55.0, gt=0, le=3600, validation_alias=names("CRON_BUDGET_SECONDS"))
    """For how many seconds one call claims jobs. Then it is answered, even while jobs run."""
    door_url: str = Field("", validation_alias=names("JOBDECK_DOOR_URL"))
    """The public URL of `jobdeck serve`, which some vendors sign; unset: what such a vendor sends is refused."""
    metrics_token: SecretStr | None = Field(None, validation_alias=names("JOBDECK_METRICS_TOKEN"))
    """Bearer token of `/metrics`, 16 characters at least."""
    metrics_address: str = Field("", validation_alias=names("JOBDECK_METRICS_ADDRESS"))
    """Host and port on which `jobdeck serve` offers `/metrics` apart from everything else."""
    worker_metrics_address: str = Field("", validation_alias=names("JOBDECK_WORKER_METRICS_ADDRESS"))
    """Host and port on which `jobdeck worker` offers `/metrics` of its own; an address other than loopback needs
    the token."""

    @field_validator("database_schema")
    @classmethod
    def _schema(cls, name: str) -> str:
        return schema_name(name)

    @field_validator("databases", mode="before")
    @classmethod
    def _databases(cls, value: Any) -> Any:
        return named_addresses(value)

    @field_validator("door_url")
    @classmethod
    def _no_path(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/")):
            raise ValueError("must be an address without a path, like https://jobs.example.org")
        return url.rstrip("/")

    @field_validator("metrics_address", "worker_metrics_address")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        return host_and_port(address) if address else address

    @model_validator(mode="after")
    def _heartbeat_within_lease(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("JOBDECK_HEARTBEAT_SECONDS must be at most half of JOBDECK_LEASE_SECONDS")
        return self

    def of(self, kind: type[S]) -> S:
        """The settings of a plugin, read at first use.

        Raises:
            ConfigurationError: a setting is wrong; the message names its key and the reason.
        """
        found = self._plugins.get(kind)
        if not isinstance(found, kind):
            found = self._plugins[kind] = _read(kind)
        return found

    def having(self, settings: BaseSettings) -> Settings:
        """A copy in which these settings replace those of the same plugin."""
        made = self.model_copy()
        made._plugins = {**self._plugins, type(settings): settings}  # noqa: SLF001 -- of this class
        return made

    @property
    def handler_modules(self) -> tuple[str, ...]:
        """The modules named by `JOBDECK_HANDLERS`."""
        return tuple(name.strip() for name in self.handlers.split(",") if name.strip())

    @property
    def is_production(self) -> bool:
        """Whether `JOBDECK_ENV` marks the database as production."""
        return self.environment.strip().lower() in {"prod", "production", "live"}


def load(**overrides: Any) -> Settings:
    """Reads all settings: `overrides` take precedence over the environment, and that over the configuration file.

    The file is TOML, at `JOBDECK_CONFIG` or `jobdeck/config.toml` in the XDG configuration folder, and its keys are
    the variables' names. It may be absent unless `JOBDECK_CONFIG` names it. The settings of the plugins are read too,
    so that a wrong one is an error at the start.

    Raises:
        ConfigurationError: a setting is wrong; the message names its key and the reason.
    """
    settings = _read(Settings, **{name: value for name, value in overrides.items() if value is not None})
    for plugin in load_plugins():
        if plugin.settings is not None:
            settings.of(plugin.settings)
    return settings


def asks_for_otel() -> bool:
    """Whether `JOBDECK_OTEL` is on, without a look at any other setting.

    Raises:
        ConfigurationError: it is neither true nor false, or the configuration file cannot be read.
    """
    return _read(OtelSettings).otel


def key_bindings() -> dict[str, str]:
    """The table `keys` of the configuration file, which maps actions of the dashboard to keys.

    Raises:
        ConfigurationError: it is not a table of strings.
    """
    table = config_file.content().get("keys", {})
    if not isinstance(table, dict) or not all(isinstance(keys, str) for keys in table.values()):
        raise ConfigurationError(
            f'[keys] in {config_file.path()} must be a table of strings. Write a line like "job.retry" = "R".'
        )
    return table


def state_folder(given: Path | None) -> Path:
    """The state folder: the given one, `/var/lib/jobdeck` for root, otherwise `jobdeck` in the XDG state folder.

    Raises:
        EmbeddedPostgresError: none is given and the account has no home folder.
    """
    if given is not None:
        return given.expanduser().absolute()
    if os.geteuid() == 0:
        return SHARED_STATE
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "jobdeck"
    except RuntimeError as error:
        raise EmbeddedPostgresError(
            "This account has no home folder for the embedded Postgres. Set JOBDECK_STATE_DIR to a folder "
            "that it can write, or DATABASE_URL to another Postgres."
        ) from error


def secret_names() -> frozenset[str]:
    """The names of all settings whose values are secrets, also those of the plugins."""
    kinds: list[type[BaseSettings]] = [Settings, *(one.settings for one in load_plugins() if one.settings is not None)]
    return frozenset(
        str(name)
        for kind in kinds
        for field in kind.model_fields.values()
        if SecretStr in get_args(field.annotation) and isinstance(field.validation_alias, AliasChoices)
        for name in field.validation_alias.choices
    )


def _read(kind: type[S], **given: Any) -> S:
    try:
        return kind(**given)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from None


def _from_file() -> dict[str, Any]:
    found = config_file.content().items()
    return {name: value for name, value in found if name == DATABASES or not isinstance(value, dict)}


def _sentence(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        message = item["msg"].removeprefix("Value error, ")
        problems.append(f"{item['loc'][0]}: {message}" if item["loc"] else message)
    return f"A setting is wrong: {'; '.join(problems)}. Correct it in the environment or in {config_file.path()}."
