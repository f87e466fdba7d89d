"""The gauges of the soak: a caller that grows makes it fail, and one that has grown at first, or for a moment, does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest.mock import patch

import pytest

from tests.reliability import gauges
from tests.reliability.gauges import Memory
from tests.reliability.places import PLACES
from tests.reliability.trial import Trial


def looked(seconds: int, size: Callable[[float], float]) -> Trial:
    """A round of so many seconds, whose caller has so many MiB at each of them."""
    trial, now = Trial(PLACES[0], seed=1, whole=True), 0.0
    with (
        patch.object(time, "monotonic", lambda: now),
        patch.object(gauges, "_resident", lambda pid: size(now)),
    ):
        memory = Memory([1])
        while now < seconds:
            memory.look()
            now += 2
        memory.told(trial)
    return trial


@pytest.mark.parametrize(
    ("grows", "size"),
    [
        (True, lambda second: 70 + 12 * second / 3600),
        (False, lambda second: 70 + 2 * second / 3600),
        (False, lambda second: 70 + min(second, 150) / 30),
        (False, lambda second: 70 + (second > 400) / 4),
    ],
    ids=["all the time", "little", "at first", "once"],
)
def test_a_caller_that_grows_is_found(grows: bool, size: Callable[[float], float]) -> None:
    trial = looked(600, size)
    assert trial.looked == {"I6"}
    assert bool(trial.wrong) is grows, trial.wrong


def test_the_slope_of_a_short_round_is_a_figure() -> None:
    trial = looked(100, lambda second: 70 + 10 * second / 3600)
    assert not trial.wrong
    assert trial.figures == {"MiB of a caller": 70, "MiB an hour that it grows by": 10}
