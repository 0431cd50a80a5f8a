"""Code of plugins that has changed is imported anew, with its package, or put back as it was."""

import sys
from contextlib import suppress
from importlib import import_module

import pytest

from mailgw.plugin_code import PluginCode


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "moodplugin"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "words.py").write_text("WORD = 'one'\n")
    (folder / "policy.py").write_text("from moodplugin.words import WORD\n")
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "moodplugin"]:
        del sys.modules[name]


def word():
    return import_module("moodplugin.policy").WORD


def known(package):
    code = PluginCode()
    word()
    code.note("moodplugin.policy:Mood", "127.0.0.1:24", "localhost:25", "json:loads", "mailgw.api:IClock")
    return code


def test_nothing_is_imported_anew_that_has_not_changed(package):
    code, before = known(package), import_module("moodplugin.policy")
    with code.renewed() as renewal:
        assert import_module("moodplugin.policy") is before
        assert renewal.modules == ()


def test_a_changed_module_takes_its_package_along(package):
    code = known(package)
    (package / "words.py").write_text("WORD = 'another'\n")
    with code.renewed() as renewal:
        assert renewal.modules == ["moodplugin.words"]
        assert word() == "another"
        renewal.keep = True
    assert word() == "another"


@pytest.mark.parametrize("text", ["WORD = 'another'\n", "WORD = 'broken\n", "raise RuntimeError('no')\n"])
def test_what_is_not_kept_is_put_back(package, text):
    code = known(package)
    modules = {name: module for name, module in sys.modules.items() if name.startswith("moodplugin")}
    (package / "words.py").write_text(text)
    with suppress(SyntaxError, RuntimeError), code.renewed():
        word()
    assert {name: module for name, module in sys.modules.items() if name.startswith("moodplugin")} == modules
    assert word() == "one"
    assert code.changed() == ["moodplugin.words"]  # and it is tried again the next time


def test_our_own_code_is_left_alone(package):
    code = PluginCode()
    code.note("mailgw.policies.helo:Helo", "twisted.python:log")
    assert not code._known or all(name.startswith("twisted.plugins.") for name in code._known)
