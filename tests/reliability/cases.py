"""The experiments, by their names."""

from __future__ import annotations

from tests.reliability.herd import herd
from tests.reliability.trial import Experiment

EXPERIMENTS = {
    one.name: one
    for one in [
        Experiment(
            "E1",
            "Herd",
            "Callers ask for one key at the same moment, key after key. The first one stays until half of the others are "
            "seen waiting.",
            ("I1", "I2", "I3", "I11"),
            herd,
            ("CHECK_THEN_ACT", "ROWCOUNT_DECIDES"),
        ),
    ]
}
