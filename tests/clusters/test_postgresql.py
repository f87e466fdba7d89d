"""PostgreSQL with standbys: what COMMIT waited for is there after a promotion, and what it did not may be gone."""

from __future__ import annotations

from typing import Any

import pytest

from idemtable import IdemTable
from tests.clusters import experiments
from tests.clusters.load import engine_for, furnish
from tests.clusters.standbys import Standbys
from tests.support.backends import needed
from tests.support.crowd import until
from tests.support.database import effect

pytestmark = pytest.mark.timeout(600)

DRIVERS = ["psycopg", "asyncpg"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_standby_that_commit_waits_for_is_promoted_under_load_and_has_all(driver: str) -> None:
    experiments.promoted(1, "s1", driver)


@pytest.mark.parametrize("driver", DRIVERS)
def test_of_two_of_which_commit_waits_for_any_the_one_that_has_most_has_all(driver: str) -> None:
    experiments.promoted(2, "ANY 1 (s1, s2)", driver)


def test_a_standby_that_commit_does_not_wait_for_may_not_have_what_was_acknowledged() -> None:
    """The books balance, and a caller has been told something that nobody knows any more."""
    with needed():
        group = Standbys(1, "")
    with group:
        furnish(group.url())
        (follower,) = group.standbys
        engine = engine_for(group.url())
        table = IdemTable(engine)

        @table.transactional("cluster.lost", key="key", returns=int)
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        order("first")
        done = group.ask(group.primary, "SELECT pg_current_wal_lsn()")[0][0]
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{done}'"
        until(lambda: group.ask(follower, replayed) == [(True,)], "the standby does not catch up")
        # What is under way between them when a primary dies, made visible: nothing more arrives.
        group.ask(follower, "ALTER SYSTEM SET primary_conninfo = ''")
        group.ask(follower, "SELECT pg_reload_conf()")
        streams = "SELECT 1 FROM pg_stat_replication"
        until(lambda: not group.ask(group.primary, streams), "the standby still follows")
        acknowledged = order.outcome("k")
        assert order.outcome("k").replayed
        group.primary.kill()
        group.promote(follower)
        assert order.outcome("first").replayed
        again = order.outcome("k")
        assert (acknowledged.replayed, again.replayed) == (False, False)  # it ran anew: the key is gone with its effect
        assert sorted(name for name, _ in group.effects(follower)) == ["first", "k"]
        engine.dispose()
