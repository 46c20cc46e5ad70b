"""Real processes that join, leave, vote and count outcomes at one instant, in one SQLite file and in one folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from converge.coordination.pool_ballots import PoolBallots, replay
from converge.coordination.pool_manager import PoolManager
from converge.core.pool import Pool
from converge.policy.governance import QuorumGovernance
from converge.policy.trust import TrustModel
from tests.core.coordination.at_once import run_at_once
from tests.core.coordination.pool_worker import AGENTS, opened

WORKER = Path(__file__).with_name("pool_worker.py")
PROCESSES = 4
KINDS = pytest.mark.parametrize("kind", ["sqlite", "file"])


def run_all(what: str, kind: str, path: Path) -> list[Any]:
    """What each process printed; all of them begin at one instant."""
    printed = run_at_once([str(WORKER), what, kind, str(path), f"w{number}"] for number in range(PROCESSES))
    return [json.loads(out) for out in printed]


def joined(kind: str, path: Path) -> tuple[set[str], list[Any]]:
    with opened(kind, str(path)) as store:
        PoolManager(store).create_pool({"id": "p"})
        printed = run_all("join", kind, path)
        pool = PoolManager(store).get_pool("p")
        assert pool is not None
        pools = PoolManager(store)
        assert {agent for agent in pool.agents if pools.get_pools_for_agent(agent) != ["p"]} == set()
        return pool.agents, printed


EXPECTED = {f"w{process}-{number}" for process in range(PROCESSES) for number in range(0, AGENTS, 2)}


@KINDS
def test_joins_and_leaves_of_processes_at_one_instant_lose_nobody(kind: str, tmp_path: Path) -> None:
    assert joined(kind, tmp_path / "s") == (EXPECTED, [True] * PROCESSES)


def test_that_race_catches_a_store_that_reads_checks_and_puts(tmp_path: Path) -> None:
    assert any(joined("mutant", tmp_path / f"s{number}")[0] != EXPECTED for number in range(5))


@KINDS
def test_of_many_votes_for_one_agent_exactly_one_counts_and_the_last_closes(kind: str, tmp_path: Path) -> None:
    with opened(kind, str(tmp_path / "s")) as store:
        pools = PoolManager(store)
        agents = {f"agent-{number:02}" for number in range(AGENTS)}
        pools.create_pool(Pool("p", governance=QuorumGovernance(1.0), agents=agents))
        ballots = PoolBallots(pools)
        ballots.open("p", ["w0", "w1", "w2", "w3"], deadline=time.time() + 600, ballot_id="b")
        counted = run_all("vote", kind, tmp_path / "s")
        assert sorted(agent for mine in counted for agent in mine) == sorted(agents)
        ballot = ballots.get("b")
        assert ballot is not None
        assert ballot.votes == {agent: f"w{number}" for number, mine in enumerate(counted) for agent in mine}
        assert ballot.result == replay(ballot)
        assert store.list("ballot-votes:") == []


def test_an_outcome_that_all_processes_know_of_is_counted_once(tmp_path: Path) -> None:
    with opened("sqlite", str(tmp_path / "s")) as store:
        assert sum(run_all("outcomes", "sqlite", tmp_path / "s")) == AGENTS
        model = TrustModel(half_life_sec=float("inf"), store=store, name="t")
        assert model.get_trust("a") == pytest.approx((AGENTS * 3 / 4 + 1) / (AGENTS + 2))
