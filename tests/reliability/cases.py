"""The experiments, by their names."""

from __future__ import annotations

from tests.reliability.crashes import crash_everywhere
from tests.reliability.deliveries import deliver
from tests.reliability.herd import herd
from tests.reliability.kills import kill_clients, kill_servers
from tests.reliability.levels import matrix
from tests.reliability.machine import model
from tests.reliability.migrating import migrations
from tests.reliability.orders import interleave
from tests.reliability.pauses import pause
from tests.reliability.purges import purge
from tests.reliability.storms import storm
from tests.reliability.trial import Experiment
from tests.reliability.wire import cut_everywhere

EVERY = ("postgresql18 fused", "postgresql16 fused", "mariadb10.11 fused", "mariadb11.8 fused", "mysql9.7 plain")
"""Each engine, and both paths between them."""

EXPERIMENTS = {
    one.name: one
    for one in [
        Experiment(
            "E1",
            "Herd",
            "Sixteen callers ask for one key at the same moment, key after key: threads, then tasks of one event loop "
            "on an AsyncEngine, then the threads of four processes. The first one stays until half of the callers are "
            "seen waiting, by the database's own view. The tasks go through psycopg, as the threads do, or through "
            "asyncmy, which has only the plain path.",
            ("I1", "I2", "I3", "I11"),
            herd,
            ("CHECK_THEN_ACT", "ROWCOUNT_DECIDES"),
            quick=EVERY,
        ),
        Experiment(
            "E2",
            "Every interleaving",
            "Two callers of one key, each step by step, in every order in which their steps can come: claim, "
            "effect, a change of it, store, COMMIT or an exception. That are 504 orders at each of READ "
            "COMMITTED, REPEATABLE READ and SERIALIZABLE; 140 where COMMIT travels with the result, which makes "
            "one step of two. Then three callers of three steps each, in their 1,680 orders.",
            ("I1", "I2", "I3", "I6", "I8", "I11"),
            interleave,
            ("CHECK_THEN_ACT",),
            quick=EVERY,
        ),
        Experiment(
            "E3",
            "Every cut of the line",
            "The connection goes through a proxy that cuts it at each chunk, on its way to the server and back: "
            "before the chunk, in the middle of it, after it, after it with a reset, and so that nobody is told "
            "of it for a while. What is cut is a first run, a replay, a call with another payload, and a purge. "
            "The caller sees none of it.",
            ("I1", "I2", "I3", "I5", "I6", "I8", "I9", "I10", "I11"),
            cut_everywhere,
            ("KEY_COMMITTED_FIRST",),
            quick=EVERY,
        ),
        Experiment(
            "E4",
            "Every line a crash",
            "A call is interrupted at each line of the library that it comes to, by an exception, Ctrl-C, a "
            "cancellation and the end of a generator; and at each step that it tells of. It is a first run, a "
            "replay, a rollback, a token that is redeemed, and a call in a transaction whose owner handles the "
            "exception and commits the rest.",
            ("I1", "I2", "I5", "I6"),
            crash_everywhere,
            ("ROLLBACK_MISSING",),
            quick=("postgresql18 fused", "mariadb10.11 fused"),
        ),
        Experiment(
            "E5",
            "Servers are killed",
            "Eight processes call, some keys much oftener than others, while the server and all its children are "
            "killed with SIGKILL and started again. Each process writes down what it was told; then each key that "
            "nobody was told of is asked for once more.",
            ("I1", "I2", "I3", "I4", "I5", "I6", "I8", "I11"),
            kill_servers,
            ("KEY_COMMITTED_FIRST",),
            own_server=True,
            quick=("postgresql18 fused",),
        ),
        Experiment(
            "E6",
            "Callers are killed",
            "The same, and it is the calling processes that are killed: at random moments, and over the plain "
            "path at each step of a call, after which another process has the key.",
            ("I1", "I2", "I3", "I5", "I6", "I8", "I11"),
            kill_clients,
            ("KEY_COMMITTED_FIRST",),
            quick=("postgresql18 plain", "mysql9.7 fused"),
        ),
        Experiment(
            "E7",
            "A server that forgets",
            "E5 on a server that was told not to keep what it acknowledges (`synchronous_commit=off`, "
            "`innodb_flush_log_at_trx_commit=0`). The experiment must see that: it would see it of the library "
            "too.",
            ("I2", "I3", "I4"),
            kill_servers,
            ("DURABILITY_OFF",),
            is_mutant=True,
            own_server=True,
            quick=("postgresql18 fused",),
        ),
        Experiment(
            "E8",
            "Storms",
            "Four callers of each key, whose functions raise half of the time. Pairs of calls that lock two rows "
            "crosswise, at READ COMMITTED (deadlocks) and at REPEATABLE READ, having read them before "
            "(conflicts). Callers that write, join a call which a deadlock takes down, write again and commit.",
            ("I1", "I2", "I3", "I6", "I11"),
            storm,
            ("NO_RETRY_OF_DEADLOCKS", "NO_RETRY_OF_CONFLICTS", "TRANSIENT_REMEMBERED", "RETRY_INSIDE"),
            quick=("postgresql18 fused", "mariadb10.11 fused", "mariadb11.8 plain", "mysql9.7 fused"),
        ),
        Experiment(
            "E9",
            "Levels and connections",
            "A table of cells: each isolation level, with a look aside and without, for a call that loses its "
            "claim and for a caller's transaction that has read before; connections in AUTOCOMMIT, transactions "
            "that are read-only or have failed, a key that is held, a column too short for what belongs into it.",
            ("I1", "I2", "I3", "I6", "I11"),
            matrix,
            ("PLAIN_SELECT", "INSERT_IGNORE"),
            quick=("postgresql18 fused", "mariadb10.11 plain", "mariadb11.8 fused", "mysql9.7 fused"),
        ),
        Experiment(
            "E10",
            "Pauses",
            "A caller stands still inside its function, and over the plain path at each step, until the server "
            "gives its transaction up and another caller has done the work; then it goes on. Or its transaction "
            "has ended under it, or its process is stopped with SIGSTOP while another one waits for it. Or its clock "
            "jumps by an hour, and back.",
            ("I1", "I2", "I3", "I6", "I8", "I9", "I11"),
            pause,
            ("STORE_WITHOUT_OWNER", "PURGE_BY_CLIENTS_CLOCK"),
            quick=("postgresql18 fused", "mariadb10.11 plain", "mysql9.7 fused"),
        ),
        Experiment(
            "E11",
            "Purges under fire",
            "Two purges at once over rows that have expired, after others that were killed at it, while callers use "
            "new keys and ask for those that will expire in four minutes and for those that have expired. In the whole "
            "form the same calls are timed before any purge runs and while one deletes, and a watcher looks all the "
            "time in the database's own views (`pg_locks`, `innodb_lock_waits`, `data_lock_waits`) for callers that "
            "wait for who is none. The times are figures, of a machine that does other things too; broken is a run in "
            "which a caller was seen to wait for the same lock for longer than a second.",
            ("I1", "I2", "I3", "I6", "I9", "I11"),
            purge,
            ("PURGE_BY_CLIENTS_CLOCK",),
            quick=("postgresql18 fused", "mariadb10.11 fused", "mysql9.7 fused"),
        ),
        Experiment(
            "E12",
            "Migrations at once",
            "Eight upgrade one database at the same moment, in some rounds after a program was killed in the "
            "middle of it. In the end the table is as it should be, and none of the eight was told of an error.",
            ("I3", "I6", "I11"),
            migrations,
            ("NO_UPGRADE_LOCK",),
            quick=("postgresql18 fused", "mysql9.7 fused"),
        ),
        Experiment(
            "E13",
            "Deliveries",
            "Two groups of consumers; each message is delivered one to five times, in any order, and again where "
            "a consumer was killed before it had acknowledged. Some messages make their handler raise each time, "
            "and hold up nobody.",
            ("I1", "I4", "I6", "I7", "I11"),
            deliver,
            ("ACK_BEFORE_COMMIT",),
            quick=("postgresql18 fused", "mariadb10.11 fused"),
        ),
        Experiment(
            "E15",
            "Against a model",
            "Random sequences of calls, failures, remembered exceptions, other payloads, other tenants, expiry, "
            "purges, forgotten keys, tokens and new connections, compared with a model after each step. Then "
            "random schedules of threads that call, join and raise inside calls.",
            ("I1", "I3", "I6", "I8", "I9", "I10", "I11"),
            model,
            ("MISMATCH_ANSWERED", "DOOR_LEFT_OPEN"),
            quick=("postgresql18 fused", "mariadb10.11 fused"),
        ),
    ]
}
