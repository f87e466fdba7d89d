"""The experiments, by their names."""

from __future__ import annotations

from tests.reliability.herd import herd
from tests.reliability.orders import interleave
from tests.reliability.trial import Experiment
from tests.reliability.wire import cut_everywhere

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
        Experiment(
            "E2",
            "Every interleaving",
            "Two callers of one key, each step by step, in every order in which their steps can come: claim, effect, a "
            "change of it, store, COMMIT or an exception. That are 504 orders at each of READ COMMITTED, REPEATABLE READ "
            "and SERIALIZABLE; 140 where COMMIT travels with the result, which makes one step of two. Then three callers "
            "of three steps each, in their 1,680 orders.",
            ("I1", "I2", "I3", "I6", "I8", "I11"),
            interleave,
            ("CHECK_THEN_ACT",),
        ),
        Experiment(
            "E3",
            "Every cut of the line",
            "The connection goes through a proxy that cuts it at each chunk, on its way to the server and back: before the "
            "chunk, in the middle of it, after it, after it with a reset, and so that nobody is told of it for a while. What "
            "is cut is a first run, a replay, a call with another payload, and a purge. The caller sees none of it.",
            ("I1", "I2", "I3", "I5", "I6", "I8", "I9", "I10", "I11"),
            cut_everywhere,
            ("KEY_COMMITTED_FIRST",),
        ),
    ]
}
