"""Patroni: a planned switchover is an error to nobody, and a leader that is killed loses nothing that was acknowledged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clusters.load import Fleet, check, engine_for, furnish, storm
from tests.clusters.patroni import Patroni
from tests.support.backends import needed

pytestmark = pytest.mark.timeout(600)

DRIVERS = ["psycopg", "asyncpg"]


@pytest.fixture(scope="module")
def patroni() -> Iterator[Patroni]:
    with needed():
        found = Patroni()
    with found:
        furnish(found.url())
        yield found


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_planned_switchover_is_an_error_to_nobody(patroni: Patroni, driver: str) -> None:
    with Fleet([engine_for(patroni.url(driver)) for _ in range(2)]) as fleet:
        report = storm(fleet, meanwhile=lambda _: patroni.switch())
    assert report.errors == [], report
    assert report.hit >= 3, f"no trial: {report}"
    check(report, patroni.effects())


def test_a_leader_that_is_killed_loses_nothing_and_no_caller_learns_of_it(patroni: Patroni) -> None:
    """Last: it does not come back."""
    with Fleet([engine_for(patroni.url()) for _ in range(2)]) as fleet:
        report = storm(fleet, meanwhile=lambda _: patroni.kill_leader())
    assert report.errors == [], report
    assert report.hit >= 3, f"no trial: {report}"
    check(report, patroni.effects())
