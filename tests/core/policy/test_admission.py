from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from converge.plugins import PluginOptionsError, Secret, default_manager
from converge.policy.admission import AdmissionPolicy, OpenAdmission, TokenAdmission, WhitelistAdmission
from converge.policy.errors import PolicyOptionError

TOKEN = "correct horse battery"


@pytest.fixture(scope="module")
def policy() -> TokenAdmission:
    return TokenAdmission(TOKEN)


def test_open_admission_admits_everybody() -> None:
    assert OpenAdmission().can_admit("anybody", {}) is True


def test_a_whitelist_admits_exactly_the_named() -> None:
    policy = WhitelistAdmission(["a", "b"])
    assert [agent for agent in ("a", "b", "c", "A", "") if policy.can_admit(agent, {})] == ["a", "b"]


def test_an_empty_whitelist_admits_nobody() -> None:
    assert WhitelistAdmission([]).can_admit("a", {}) is False


def test_a_whitelist_does_not_follow_later_changes_of_the_list_it_was_made_from() -> None:
    agents = ["a"]
    policy = WhitelistAdmission(agents)
    agents.append("evil")
    assert not policy.can_admit("evil", {})


@pytest.mark.parametrize("agents", ["abc", b"abc", None, 7, {"a": 1}, ["a", 1], ["a", ""], [None]])
def test_a_whitelist_of_anything_but_ids_is_refused(agents: object) -> None:
    with pytest.raises(PolicyOptionError, match="agents") as caught:
        WhitelistAdmission(agents)
    assert caught.value.policy == "WhitelistAdmission"


def test_a_token_admits_and_nothing_else_does(policy: TokenAdmission) -> None:
    assert policy.can_admit("a", {"token": TOKEN}) is True
    for wrong in ("", TOKEN + " ", TOKEN.upper(), "\udc80", "x" * 5000):
        assert policy.can_admit("a", {"token": wrong}) is False
    for absent in ({}, {"token": None}, {"token": TOKEN.encode()}, {"token": True}, {"token": [TOKEN]}):
        assert policy.can_admit("a", absent) is False


def test_a_token_can_be_a_secret_on_both_sides(policy: TokenAdmission) -> None:
    assert TokenAdmission(Secret(TOKEN)).can_admit("a", {"token": TOKEN})
    assert policy.can_admit("a", {"token": Secret(TOKEN)})
    assert not policy.can_admit("a", {"token": Secret("wrong")})


def test_the_token_is_nowhere_in_the_policy(policy: TokenAdmission) -> None:
    shown = (repr(policy), str(policy), str(policy.to_options()), str(pickle.dumps(policy)))
    assert not any(TOKEN in text for text in shown)
    assert policy.verifier not in repr(policy)


def test_options_restore_an_equal_token_policy_that_admits_the_same(policy: TokenAdmission) -> None:
    restored = TokenAdmission(**policy.to_options())
    assert restored == policy
    assert hash(restored) == hash(policy)
    assert restored.can_admit("a", {"token": TOKEN})
    assert not restored.can_admit("a", {"token": "wrong"})


def test_a_token_policy_survives_pickle_and_copy(policy: TokenAdmission) -> None:
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert copy.deepcopy(policy) == policy


def test_the_same_token_gives_another_verifier_each_time(policy: TokenAdmission) -> None:
    assert TokenAdmission(TOKEN) != policy


@pytest.mark.parametrize("token", ["", "x" * 4097, "\udc80", 7, b"bytes", Secret("")])
def test_what_cannot_be_a_token_is_refused_without_showing_it(token: object) -> None:
    with pytest.raises(PolicyOptionError, match="token") as caught:
        TokenAdmission(token)  # type: ignore[arg-type]  # what is refused is the point
    assert "xxx" not in str(caught.value)


def test_a_token_policy_needs_a_token_or_a_verifier_and_not_both(policy: TokenAdmission) -> None:
    with pytest.raises(PolicyOptionError):
        TokenAdmission()
    with pytest.raises(PolicyOptionError):
        TokenAdmission(TOKEN, verifier=policy.verifier)


def test_only_the_verifiers_own_form_is_taken() -> None:
    with pytest.raises(PolicyOptionError, match="verifier"):
        TokenAdmission(verifier="plain")
    with pytest.raises(PolicyOptionError, match="verifier"):
        TokenAdmission(verifier=7)  # type: ignore[arg-type]  # what is refused is the point


@pytest.mark.parametrize(
    ("table", "expected"),
    [("open", OpenAdmission()), ({"use": "whitelist", "agents": ["a"]}, WhitelistAdmission(["a"]))],
)
def test_policies_are_built_from_configuration_and_described_again(
    table: str | dict[str, object], expected: AdmissionPolicy
) -> None:
    built = default_manager().build("admission", table)
    assert built == expected
    again = default_manager().describe(built)
    assert again is not None
    assert default_manager().build("admission", again) == expected


def test_a_token_in_configuration_is_an_environment_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_TOKEN", TOKEN)
    built = default_manager().build("admission", {"use": "token", "token": {"env": "POOL_TOKEN"}})
    assert isinstance(built, TokenAdmission)
    assert built.can_admit("a", {"token": TOKEN})
    described = default_manager().describe(built)
    assert described == {"use": "token", "verifier": built.verifier}
    assert default_manager().build("admission", described) == built


def test_a_token_written_into_the_configuration_is_refused() -> None:
    with pytest.raises(PluginOptionsError) as caught:
        default_manager().build("admission", {"use": "token", "token": TOKEN})
    assert TOKEN not in str(caught.value)


def test_importing_admission_does_not_import_the_plugin_platform() -> None:
    code = (
        "import sys, converge.policy.admission; sys.exit('converge.plugins' in sys.modules or 'pluggy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
