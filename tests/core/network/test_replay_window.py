from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.core.message import Message
from converge.network.replay_window import ReplayWindow

NOON = 1_700_000_000.0


class HandClock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def at(sec: float, message_id: str = "m", sender: str = "a") -> Message:
    """A message stamped `sec` seconds after noon. The window never looks at signatures."""
    return Message(message_id, sender, timestamp=round((NOON + sec) * 1000))


def test_a_message_is_accepted_once() -> None:
    window = ReplayWindow(started_at=0, now=HandClock())
    assert window.refusal(at(0)) is None
    assert [window.refusal(at(0)) for _ in range(3)] == ["replayed"] * 3


def test_an_id_is_the_senders_own() -> None:
    window = ReplayWindow(started_at=0, now=HandClock())
    assert window.refusal(at(0, sender="a")) is None
    assert window.refusal(at(0, sender="b")) is None


@pytest.mark.parametrize(
    ("sec", "refusal"),
    [(-120.001, "stale"), (-120, None), (30, None), (30.001, "future"), (-NOON, "stale"), (10**9, "future")],
)
def test_the_window_is_120_s_back_and_30_s_ahead(sec: float, refusal: str | None) -> None:
    assert ReplayWindow(started_at=0, now=HandClock()).refusal(at(sec)) == refusal


def test_what_is_refused_leaves_no_trace() -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    assert window.refusal(at(31)) == "future"
    assert len(window) == 0
    clock.now += 1
    assert window.refusal(at(31)) is None


def test_a_message_is_refused_for_as_long_as_its_timestamp_could_pass() -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    assert window.refusal(at(30)) is None
    for _ in range(1500):
        clock.now += 0.1
        assert window.refusal(at(30)) == "replayed"
    clock.now += 0.1
    assert window.refusal(at(30)) == "stale"


def test_small_steps_back_of_the_clock_forget_nothing() -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    assert window.refusal(at(0)) is None
    for step in range(10):
        clock.now = NOON - step
        assert window.refusal(at(0)) == "replayed"
        assert window.refusal(at(0, f"other {step}")) is None


def test_a_clock_set_forward_and_back_lets_nothing_be_replayed() -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    assert window.refusal(at(0)) is None
    clock.now += 86_400
    assert window.refusal(at(86_400, "in between")) is None
    assert len(window) == 1
    clock.now = NOON + 1
    assert window.refusal(at(0)) == "stale"
    assert window.refusal(at(1, "new")) is None


def test_a_clock_set_back_by_a_day_does_not_make_the_messages_of_that_day_fresh() -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    for hour in range(25):
        clock.now = NOON + hour * 3600
        assert window.refusal(at(hour * 3600, f"hour {hour}")) is None
    clock.now = NOON
    assert window.refusal(at(0, "hour 0")) == "stale"
    assert window.refusal(at(1, "recorded and never delivered")) == "stale"


def test_what_has_become_stale_is_forgotten() -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    for second in range(2000):
        clock.now = NOON + second
        assert window.refusal(at(second, f"m{second}")) is None
        assert len(window) <= 120 + 38 + 1
    clock.now += 200
    assert window.refusal(at(0)) == "stale"
    assert len(window) == 0


def test_a_full_window_refuses_rather_than_forgets_until_time_has_passed() -> None:
    clock = HandClock()
    window = ReplayWindow(capacity=4, started_at=0, now=clock)
    assert [window.refusal(at(0, str(n), f"sender {n}")) for n in range(5)] == [None] * 4 + ["window_full"]
    assert window.refusal(at(0, "0", "sender 0")) == "replayed"
    clock.now += 160
    assert window.refusal(at(160, "4", "sender 4")) is None


def test_one_sender_can_take_half_of_the_room_only() -> None:
    clock = HandClock()
    window = ReplayWindow(capacity=10, started_at=0, now=clock)
    refusals = [window.refusal(at(0, str(number), "loud")) for number in range(10)]
    assert refusals == [None] * 5 + ["window_full"] * 5
    assert window.refusal(at(0, "0", "quiet")) is None
    clock.now += 160
    assert window.refusal(at(160, "again", "loud")) is None


@pytest.mark.parametrize(
    "wrong", [{"max_age_sec": math.nan}, {"max_age_sec": -1}, {"max_ahead_sec": math.inf}, {"capacity": 0}]
)
def test_a_window_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="replay window"):
        ReplayWindow(**wrong)  # type: ignore[arg-type]  # what is being tested


def test_a_window_of_no_length_takes_the_present_moment() -> None:
    window = ReplayWindow(0, 0, started_at=0, now=HandClock())
    assert [window.refusal(at(0)), window.refusal(at(0)), window.refusal(at(-0.001))] == [None, "replayed", "stale"]


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("clock"), st.floats(-400, 400)),
            st.tuples(st.just("message"), st.floats(-200, 200)),
            st.tuples(st.just("replay"), st.integers(0, 30)),
        ),
        max_size=60,
    )
)
def test_no_message_is_ever_accepted_twice_whatever_the_clock_does(steps: list[tuple[str, float]]) -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    accepted: list[Message] = []
    for number, (kind, value) in enumerate(steps):
        if kind == "clock":
            clock.now += value
        elif kind == "message":
            message = at(clock.now - NOON + value, f"m{number}")
            if window.refusal(message) is None:
                assert value + 0.001 >= -120
                assert value - 0.001 <= 30
                accepted.append(message)
        elif accepted:
            assert window.refusal(accepted[int(value) % len(accepted)]) is not None


@settings(max_examples=100)
@given(st.lists(st.floats(0, 5), max_size=80), st.data())
def test_with_a_clock_that_runs_every_fresh_message_is_accepted(steps: list[float], data: st.DataObject) -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    for number, step in enumerate(steps):
        clock.now += step
        offset = data.draw(st.floats(-119.9, 29.9))
        assert window.refusal(at(clock.now - NOON + offset, f"m{number}")) is None


def expiring(sec: float, ttl_ms: int, message_id: str = "m") -> Message:
    return Message(message_id, "a", timestamp=round((NOON + sec) * 1000), headers={"ttl_ms": ttl_ms})


@pytest.mark.parametrize(
    ("sec", "ttl_ms", "refusal"),
    [
        (0, 0, None),
        (-0.001, 0, "expired"),
        (-5, 5000, None),
        (-5, 4999, "expired"),
        (29, 0, None),
        (-119, 2**63 - 1, None),
        (-121, 2**63 - 1, "stale"),
    ],
)
def test_a_message_is_accepted_until_its_ttl_is_over_by_the_clock_of_the_window(
    sec: float, ttl_ms: int, refusal: str | None
) -> None:
    window = ReplayWindow(started_at=0, now=HandClock())
    assert window.refusal(expiring(sec, ttl_ms)) == refusal
    assert len(window) == (refusal is None)


def test_a_message_that_was_accepted_expires_too() -> None:
    clock = HandClock()
    window = ReplayWindow(started_at=0, now=clock)
    assert [window.refusal(expiring(0, 1000)), window.refusal(expiring(0, 1000))] == [None, "replayed"]
    clock.now += 1.001
    assert window.refusal(expiring(0, 1000)) == "expired"
    assert window.refusal(expiring(0, 1000, "never seen")) == "expired"


def test_what_is_stamped_before_the_window_was_made_is_refused() -> None:
    clock = HandClock()
    window = ReplayWindow(now=clock)
    clock.now += 1
    assert [window.refusal(at(sec, str(sec))) for sec in (-0.001, -119, 0, 0.5)] == [
        "before_start",
        "before_start",
        None,
        None,
    ]
    assert len(window) == 2


def test_after_a_restart_what_was_accepted_before_is_refused() -> None:
    clock = HandClock()
    before = ReplayWindow(now=clock)
    assert before.refusal(at(0)) is None
    clock.now += 1
    after = ReplayWindow(now=clock)
    assert after.refusal(at(0)) == "before_start"
    assert after.refusal(at(1, "sent to the new one")) is None


def test_one_that_was_released_is_accepted_once_more() -> None:
    window = ReplayWindow(started_at=0, now=HandClock())
    window.release(at(0))
    assert window.refusal(at(0)) is None
    window.release(at(0, "another"))
    window.release(at(0, sender="b"))
    assert window.refusal(at(0)) == "replayed"
    window.release(at(0))
    assert len(window) == 0
    assert [window.refusal(at(0)), window.refusal(at(0))] == [None, "replayed"]


@pytest.mark.parametrize("started_at", [math.nan, math.inf, -1])
def test_a_start_that_is_no_time_is_refused(started_at: float) -> None:
    with pytest.raises(ValueError, match="Unix time"):
        ReplayWindow(started_at=started_at)
