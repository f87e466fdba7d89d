"""What is done to a cluster while it is called, and what must hold then."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from idemtable import InProgressError, multi_host
from tests.clusters.load import CALLERS, Fleet, Report, check, engine_for, furnish, storm
from tests.clusters.nodes import Cluster
from tests.clusters.standbys import Standbys
from tests.support.backends import needed
from tests.support.crowd import Beside, crowd
from tests.support.database import effect

FAILOVER = timedelta(seconds=3)
KEYS = 100
LATEST = 5.0
"""Seconds after `failover` within which a call has said that it had none."""


def clients(cluster: Cluster, driver: str = "pymysql") -> list[Any]:
    """Three engines for all nodes; each tries another node first."""
    hosts = cluster.hosts
    return [
        multi_host(
            engine_for(cluster.url(0, driver)), hosts[first:] + hosts[:first], connect_timeout=timedelta(seconds=2)
        )
        for first in range(len(hosts))
    ]


def one_effect_on_all(cluster: Cluster, report: Report) -> None:
    for number in range(len(cluster.nodes)):
        check(report, cluster.effects(number))


def spread(cluster: Cluster, driver: str = "pymysql", *, conflicts: int, first: str = "") -> Report:
    """16 callers of 100 keys on all nodes.

    `conflicts` is how many calls must have met one on another node: with fewer nothing was tried. `first` is sent on each
    new connection.
    """
    engines = clients(cluster, driver)
    for engine in engines if first else ():
        sa.event.listen(engine, "connect", lambda connection, _: connection.query(first))
    with Fleet(engines) as fleet:
        report = storm(fleet, keys=KEYS)
    assert report.errors == []
    assert report.answered == KEYS * CALLERS
    one_effect_on_all(cluster, report)
    assert report.hit >= conflicts, f"no trial: {report}"
    return report


def followed(cluster: Cluster, first: str) -> int:
    """Call each of many keys on one node, and on another as soon as that has answered; return how many runs were too many.

    `first` is sent on each new connection.
    """
    engines, report = clients(cluster), Report(f"k{uuid4().hex[:8]}")
    for engine in engines:
        sa.event.listen(engine, "connect", lambda connection, _: connection.query(first))
    with Fleet(engines) as fleet:
        orders = fleet.orders(report)

        def one(number: int) -> list[bool]:
            here, there = (orders[(number + away) % len(orders)] for away in (0, 1))
            keys = [f"{report.name}-{number}-{turn}" for turn in range(KEYS)]
            return [order.outcome(key).replayed for key in keys for order in (here, there)]

        for answers in crowd(CALLERS, one):
            assert answers == [False, True] * KEYS
    return report.runs - CALLERS * KEYS


def killed(cluster: Cluster, victim: int, driver: str = "pymysql", *, hits: int, returns: bool = True) -> Report:
    """A node killed under load; the callers find another one.

    `hits` is how many calls must have been hit. `returns` is whether the node is brought back.
    """
    asked = (victim + 1) % len(cluster.nodes)

    def kill(_: object) -> None:
        cluster.kill(victim)
        cluster.await_without(asked, victim)

    try:
        with Fleet(clients(cluster, driver)) as fleet:
            report = storm(fleet, meanwhile=kill)
        assert report.errors == [], report
        for number in range(len(cluster.nodes)):
            if number != victim:
                check(report, cluster.effects(number))
        assert report.hit >= hits, f"no trial: {report}"
    finally:
        if returns:
            cluster.restart(victim)
    if returns:
        one_effect_on_all(cluster, report)
    return report


def switched(cluster: Cluster, number: int, driver: str = "pymysql", *, hits: int, stalls: bool) -> Report:
    """A node taken out of service as planned, and brought back, under load: no caller learns of it.

    Or, where it `stalls`, only who waited in vain for a call with the same key: MySQL's read lock on everything waits for a
    statement that waits for a row, and the next statement of the row's holder waits for the read lock.
    """

    def switch(more: Callable[[], None]) -> None:
        cluster.retire(number)
        more()
        cluster.reinstate(number)

    with Fleet(clients(cluster, driver)) as fleet:
        report = storm(fleet, meanwhile=switch)
    assert [error for error in report.errors if not (stalls and isinstance(error, InProgressError))] == [], report
    assert report.hit >= hits, f"no trial: {report}"
    one_effect_on_all(cluster, report)
    return report


def minority(cluster: Cluster, left: int) -> None:
    """Two of three killed: calls end with the driver's error after `failover`; healed, each key has one effect."""
    others = [number for number in range(len(cluster.nodes)) if number != left]
    with Fleet(clients(cluster), failover=FAILOVER) as fleet:
        report = storm(fleet, keys=20)
        (table, *_) = fleet.tables

        @table.transactional("cluster.order", key="key", returns=int, share_scope=True)
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        before = next(iter(report.answers))
        for number in others:
            cluster.kill(number)
        # Begun at the kill: what is under way waits for as long as the servers hope, which is not the library's to end.
        keys = [f"{report.name}-dead{number}" for number in range(8)]
        begun = [Beside(lambda key=key: order(key)) for key in keys]
        for call in begun:
            with pytest.raises(sa.exc.DBAPIError):
                call.result()
        now = time.monotonic()
        with pytest.raises(sa.exc.DBAPIError) as caught:
            order(f"{report.name}-late")
        took = time.monotonic() - now
        assert FAILOVER.total_seconds() <= took < FAILOVER.total_seconds() + LATEST, took
        print(f"a dead majority: {caught.value.orig} after {took:.1f} s")
        cluster.heal(left)
        # Whatever became of them, each is settled now by the call that comes next.
        values = {key: order(key) for key in [*keys, f"{report.name}-late", before]}
        assert values[before] == next(iter(report.answers[before]))
        for key, value in values.items():
            report.answers[key][value] += 1
        for number in others:
            cluster.restart(number)
    one_effect_on_all(cluster, report)


def furnished(cluster: Cluster) -> Cluster:
    """The cluster, with the tables made on every node."""
    furnish(cluster.url(0))
    for number in range(len(cluster.nodes)):
        cluster.await_(lambda number=number: cluster.effects(number) == [] or True, f"no tables on {number}")
    return cluster


def promoted(count: int, synchronous: str, driver: str) -> None:
    """Kill the primary under load, and promote the standby that has most."""
    with needed():
        group = Standbys(count, synchronous)
    with group:
        group.await_synchronous(count)
        furnish(group.url())

        def fail_over(_: object) -> None:
            group.primary.kill()
            group.promote(group.furthest())

        with Fleet([engine_for(group.url(driver)) for _ in range(2)]) as fleet:
            report = storm(fleet, meanwhile=fail_over)
        assert report.errors == [], report
        new = next(server for server in group.standbys if group.ask(server, "SELECT pg_is_in_recovery()") == [(False,)])
        check(report, group.effects(new))
        assert report.hit >= 3, f"no trial: {report}"
