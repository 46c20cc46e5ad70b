from __future__ import annotations

import pickle

import pytest

from converge.core.errors import ConvergeError
from converge.plugins import (
    PluginAmbiguous,
    PluginBroken,
    PluginError,
    PluginIncompatible,
    PluginOptionsError,
    PluginUnknown,
)

ERRORS = [
    (PluginUnknown("store", "x", installed=["memory"], where="here"), LookupError),
    (PluginUnknown("store", "x", disabled="the environment", distribution="d"), LookupError),
    (PluginBroken("store", "x", reason="r", distribution="d", version="1", target="a:b"), RuntimeError),
    (PluginAmbiguous("store", "x", candidates=[("d", "1", "a:b"), ("e", "2", "c:d")]), ValueError),
    (PluginIncompatible("store", "x", found="2", expected=1, distribution="d"), RuntimeError),
    (PluginOptionsError("store", "x", problems=[("a", "b"), ("c", "d")], where="here"), ValueError),
]


@pytest.mark.parametrize(("error", "builtin"), ERRORS)
def test_an_error_is_of_its_built_in_kind_and_ours(error: PluginError, builtin: type[Exception]) -> None:
    assert isinstance(error, builtin)
    assert isinstance(error, ConvergeError)


@pytest.mark.parametrize("error", [error for error, _ in ERRORS])
def test_an_error_survives_pickling(error: PluginError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", [error for error, _ in ERRORS if not error.where])
def test_the_place_may_be_added_by_who_knows_it(error: PluginError) -> None:
    text = str(error)
    again = pickle.loads(pickle.dumps(error))
    again.where = "converge.toml [store]"
    assert str(again) == f"converge.toml [store]: {text}"


def test_an_ending_without_text_of_its_own_still_says_who() -> None:
    assert str(PluginError("store", "x")) == "the store plugin 'x' failed"


@pytest.mark.parametrize(
    ("kind", "name", "package"),
    [
        ("store", "sqlite", "converge-storage-sqlite"),
        ("store", "file", "converge-storage-file"),
        ("transport", "websocket", "converge-websocket"),
        ("hooks", "otel", "converge-otel"),
        ("tool", "mcp", "converge-mcp"),
        ("command", "mcp", "converge-mcp"),
        ("llm_provider", "openai", "'converge-llm[openai]'"),
        ("llm_provider", "anthropic", "'converge-llm[anthropic]'"),
        ("llm_provider", "mistral", "'converge-llm[mistral]'"),
        ("agent", "llm", "converge-llm"),
    ],
)
def test_our_own_distributions_are_hinted_at(kind: str, name: str, package: str) -> None:
    text = str(PluginUnknown(kind, name))
    assert text == f"no {kind} plugin is named {name!r}; installed: none. Install it: pip install {package}"
    assert "pip" not in str(PluginUnknown("trust", name))
