"""For users' own tests: `assert_idempotent`, failures at the protocol's steps, a clock that stands still.

The pytest plugin (`idemtable.testing.plugin`, which pytest finds by itself) gives them as fixtures. Nothing else here needs
pytest.
"""

from __future__ import annotations

from ..claim.steps import Step
from .assertion import assert_idempotent
from .clock import FrozenClock, frozen_clock
from .faults import Failure, InjectedCrash, InjectedError, fail_at, restart_at
from .outside import OutsideEffectWarning
from .rollback import rolled_back

__all__ = [
    "Failure",
    "FrozenClock",
    "InjectedCrash",
    "InjectedError",
    "OutsideEffectWarning",
    "Step",
    "assert_idempotent",
    "fail_at",
    "frozen_clock",
    "restart_at",
    "rolled_back",
]
