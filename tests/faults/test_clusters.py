"""A node killed in a cluster of each kind, and a standby promoted: what `make clusters` asks of all of them at length."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clusters import experiments
from tests.clusters.galera import Galera
from tests.clusters.group import Group
from tests.clusters.nodes import Cluster
from tests.support.backends import needed


@pytest.mark.parametrize("kind", [lambda: Group(several=False), Galera], ids=["group-replication", "galera"])
def test_a_node_that_is_killed_loses_nothing_and_no_caller_learns_of_it(kind: Callable[[], Cluster]) -> None:
    with needed():
        cluster = kind()
    with cluster:
        experiments.furnished(cluster)
        experiments.killed(cluster, 0, hits=3, returns=False)


def test_a_standby_that_commit_waits_for_is_promoted_under_load_and_has_all() -> None:
    experiments.promoted(1, "s1", "psycopg")
