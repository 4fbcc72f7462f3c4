"""The built package, and environments that have it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from tests.package.environments import ROOT, Environment, build, installed


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def slim(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and no extra.

    The variable SLIM_ENVIRONMENT names one that pip or uv made, as scripts/package does.
    """
    made = os.environ.get("SLIM_ENVIRONMENT")
    return Environment(Path(made)) if made else installed(tmp_path_factory.mktemp("slim") / "env", wheel)


@pytest.fixture(scope="session")
def with_django(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and the extra `django`, with the Django of this test run."""
    made = os.environ.get("DJANGO_ENVIRONMENT")
    return Environment(Path(made)) if made else installed(tmp_path_factory.mktemp("django") / "env", wheel, "django")


@pytest.fixture(scope="session")
def with_dashboard(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and the extra `dashboard`."""
    made = os.environ.get("DASHBOARD_ENVIRONMENT")
    if made:
        return Environment(Path(made))
    return installed(tmp_path_factory.mktemp("dashboard") / "env", wheel, "dashboard")


@pytest.fixture(scope="session")
def beside_vendors(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment whose application has, for itself, all libraries that the competition's plugin requires.

    The variable VENDORS_ENVIRONMENT names one that pip or uv made, with FastAPI beside them, as scripts/package does.
    """
    made = os.environ.get("VENDORS_ENVIRONMENT")
    if made:
        return Environment(Path(made))
    return installed(tmp_path_factory.mktemp("vendors") / "env", wheel, "dashboard", "competition")


@pytest.fixture(scope="session")
def for_shop(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and what the example application in `examples/shop` requires, and pytest."""
    made = os.environ.get("SHOP_ENVIRONMENT")
    if made:
        return Environment(Path(made))
    project = tomllib.loads((ROOT / "examples" / "shop" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    others = [line for line in project["dependencies"] if not line.startswith("jobdeck")]
    return installed(tmp_path_factory.mktemp("shop") / "env", wheel, "dashboard", beside=[*others, "pytest"])
