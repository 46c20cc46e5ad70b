from __future__ import annotations

import copy
import json
import pickle
import traceback

import attrs
import pytest
from attrs import frozen

from converge.plugins import PluginManager, PluginOptionsError, Secret

VALUE = "hunter2-very-secret"


@frozen
class Options:
    api_key: Secret
    spare: Secret | None = None


class Provider:
    converge_options = Options

    def __init__(self, api_key: Secret, spare: Secret | None) -> None:
        self.api_key, self.spare = api_key, spare


@pytest.fixture
def stocked(manager: PluginManager) -> PluginManager:
    manager.override("llm_provider", "p", Provider)
    return manager


def build(manager: PluginManager, **options: object) -> Provider:
    made = manager.build("llm_provider", {"use": "p", **options}, where="converge.toml [llm]")
    assert isinstance(made, Provider)
    return made


def test_a_secret_is_read_from_the_environment(stocked: PluginManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", VALUE)
    made = build(stocked, api_key={"env": "MY_KEY"}, spare={"env": "MY_KEY"})
    assert made.api_key.reveal() == VALUE
    assert made.spare == made.api_key
    assert made.api_key.env == "MY_KEY"


@pytest.mark.parametrize(
    "given", [VALUE, {"env": "A", "x": 1}, {"env": 5}, {"env": ""}, {"file": VALUE}, 5, None, [VALUE]]
)
def test_a_secret_written_into_the_config_is_refused_and_not_repeated(stocked: PluginManager, given: object) -> None:
    with pytest.raises(PluginOptionsError) as caught:
        build(stocked, api_key=given)
    assert 'write { env = "NAME" } and set that variable' in str(caught.value)
    assert str(caught.value).startswith("converge.toml [llm] api_key: ")
    assert VALUE not in "".join(traceback.format_exception(caught.value))


def test_a_missing_or_empty_variable_is_named(stocked: PluginManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(PluginOptionsError, match="the environment variable MY_KEY is not set"):
        build(stocked, api_key={"env": "MY_KEY"})
    monkeypatch.setenv("MY_KEY", "")
    with pytest.raises(PluginOptionsError, match="the environment variable MY_KEY is empty"):
        build(stocked, api_key={"env": "MY_KEY"})


def test_an_object_made_in_code_is_taken(stocked: PluginManager) -> None:
    secret = Secret(VALUE)
    assert build(stocked, api_key=secret).api_key is secret


@pytest.mark.parametrize("secret", [Secret(VALUE), Secret(VALUE, "MY_KEY")])
def test_a_secret_does_not_show_itself(secret: Secret) -> None:
    options = Options(secret)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", repr(options), repr(attrs.asdict(options))]
    assert not any(VALUE in text for text in shown)
    with pytest.raises(TypeError):
        json.dumps(attrs.asdict(options))
    with pytest.raises(TypeError):
        vars(secret)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_cannot_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="a Secret cannot be pickled; pass the name of its environment variable"):
        pickle.dumps(Secret(VALUE), protocol)


def test_a_copy_is_the_same_object() -> None:
    secret = Secret(VALUE)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_secrets_are_equal_by_value() -> None:
    assert Secret("é") == Secret("é", "ENV")
    assert hash(Secret("a")) == hash(Secret("a", "ENV"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_a_secret_is_a_str() -> None:
    with pytest.raises(TypeError, match="a secret is a str, not bytes"):
        Secret(b"x")  # type: ignore[arg-type]  # the wrong type is the point
