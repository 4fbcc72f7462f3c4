"""How plugins are found, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

from jobdeck.core import plugins
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.plugins import Plugin, load_plugins, use_plugins

Module = Callable[[str, str], str]


@pytest.fixture(autouse=True)
def nothing_found_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", None)
    monkeypatch.delenv("JOBDECK_PLUGINS", raising=False)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    made: list[str] = []

    def make(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(dedent(text))
        made.append(name)
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for name in made:
        sys.modules.pop(name, None)


def names() -> list[str]:
    return [plugin.name for plugin in load_plugins()]


def installed(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    points = [metadata.EntryPoint(name, target, plugins.GROUP) for name, target in targets.items()]
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point for point in points if point.group == group])


def refusal() -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_plugins()
    return str(caught.value)


def test_an_installed_plugin_is_off_until_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names() == []
    monkeypatch.setattr(plugins, "_loaded", None)
    monkeypatch.setenv("JOBDECK_PLUGINS", "competition")
    assert names() == ["competition"]


def test_an_empty_setting_means_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_PLUGINS", "")

    assert names() == []


def test_the_configuration_file_names_plugins_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('JOBDECK_PLUGINS = "competition"\n')
    monkeypatch.setenv("JOBDECK_CONFIG", str(tmp_path / "config.toml"))

    assert names() == ["competition"]


def test_the_environment_wins_over_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('JOBDECK_PLUGINS = ""\n')
    monkeypatch.setenv("JOBDECK_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("JOBDECK_PLUGINS", "competition")

    assert names() == ["competition"]


def test_a_list_of_plugins_in_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("JOBDECK_PLUGINS = [1]\n")
    monkeypatch.setenv("JOBDECK_CONFIG", str(tmp_path / "config.toml"))

    assert "must be a string" in refusal()


def test_a_plugin_is_named_by_module_and_attribute(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module("own_plugin", "from jobdeck.core.plugins import Plugin\nmine = Plugin(name='shop', version=1)\n")
    monkeypatch.setenv("JOBDECK_PLUGINS", f" competition , {name}:mine,")

    assert names() == ["competition", "shop"]


def test_a_plugin_whose_packages_are_missing_is_refused_with_its_extra(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "from jobdeck.core.plugins import Plugin\nmine = Plugin(name='shop', version=1, requires=('no_such_thing',))\n"
    )
    installed(monkeypatch, shop=f"{module('lacking', text)}:mine")
    monkeypatch.setenv("JOBDECK_PLUGINS", "shop")

    assert refusal() == (
        "The plugin shop needs no_such_thing, which cannot be imported. Install its extra: pip install 'jobdeck[shop]'."
    )


def test_an_unknown_name_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_PLUGINS", "shop")

    assert "no plugin shop" in refusal()
    assert "competition" in refusal()


def test_a_plugin_that_raises_anything_is_named_and_hinders_nobody_who_does_not_name_it(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, shop=f"{module('broken_plugin', '1 / 0')}:mine")
    assert names() == []
    monkeypatch.setattr(plugins, "_loaded", None)
    monkeypatch.setenv("JOBDECK_PLUGINS", "shop")

    assert "The plugin shop cannot be imported (ZeroDivisionError" in refusal()


def test_a_plugin_without_a_version_is_refused(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from jobdeck.core.plugins import Plugin\nmine = Plugin(name='shop', version=None)\n"
    monkeypatch.setenv("JOBDECK_PLUGINS", f"{module('unversioned', text)}:mine")

    assert "has no version" in refusal()


def test_a_module_that_holds_no_plugin_is_refused(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_PLUGINS", f"{module('other_thing', 'mine = 1')}:mine")

    assert "is of the type int, not jobdeck.core.plugins.Plugin" in refusal()


def test_two_plugins_of_one_name_are_refused(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module("namesake", "from jobdeck.core.plugins import Plugin\na = Plugin(name='competition', version=1)\n")
    monkeypatch.setenv("JOBDECK_PLUGINS", f"competition,{name}:a")

    assert "Two plugins are called competition" in refusal()


def test_plugins_are_replaced_for_a_time() -> None:
    with use_plugins(Plugin(name="shop", version=1)):
        assert names() == ["shop"]
    assert names() == []
