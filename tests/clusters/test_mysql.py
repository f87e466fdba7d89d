"""MySQL Group Replication and Galera, three nodes each: one effect for a key, nothing acknowledged lost, whatever dies."""

from __future__ import annotations

import pytest

from tests.clusters import experiments
from tests.clusters.group import Group
from tests.clusters.nodes import Cluster

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("driver", ["pymysql", "asyncmy"])
def test_of_many_callers_on_all_nodes_one_counts(cluster: Cluster, driver: str) -> None:
    # With one primary nobody is on another node; on the others a duplicate there runs, and is rolled back.
    experiments.spread(cluster, driver, conflicts=5 if cluster.writes_everywhere else 0)


@pytest.mark.parametrize("cluster", ["group-multi"], indirect=True)
def test_a_duplicate_on_another_member_need_not_run_once_the_first_was_acknowledged(cluster: Cluster) -> None:
    too_many = {
        level: experiments.followed(cluster, f"SET SESSION group_replication_consistency = '{level}'")
        for level in ("EVENTUAL", "BEFORE")
    }
    print(too_many)
    assert too_many["EVENTUAL"] > 0, "no trial"
    assert too_many["BEFORE"] <= 0  # of many threads: now and then one is not counted


@pytest.mark.parametrize("driver", ["pymysql", "asyncmy"])
def test_a_node_that_is_killed_loses_nothing_and_no_caller_learns_of_it(cluster: Cluster, driver: str) -> None:
    experiments.killed(cluster, cluster.serving(otherwise=1), driver, hits=3)


@pytest.mark.parametrize("cluster", ["group-single"], indirect=True)  # elsewhere no node is second to another
def test_a_secondary_that_is_killed_loses_nothing(cluster: Cluster) -> None:
    experiments.killed(cluster, (cluster.serving(otherwise=0) + 1) % 3, hits=0)


@pytest.mark.parametrize("driver", ["pymysql", "asyncmy"])
def test_a_planned_switch_is_an_error_to_nobody_whose_wait_it_does_not_outlast(cluster: Cluster, driver: str) -> None:
    stalls = isinstance(cluster, Group) and not cluster.writes_everywhere
    experiments.switched(cluster, cluster.serving(otherwise=0), driver, hits=3, stalls=stalls)


def test_a_minority_says_so_in_time_and_what_became_of_a_call_is_settled_when_it_is_healed(cluster: Cluster) -> None:
    experiments.minority(cluster, 0)
