"""One cluster at a time, kept for all that is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.clusters.experiments import furnished
from tests.clusters.galera import Galera
from tests.clusters.group import Group
from tests.clusters.nodes import Cluster
from tests.support.backends import needed

CLUSTERS: dict[str, Callable[[], Cluster]] = {
    "group-single": partial(Group, several=False),
    "group-multi": partial(Group, several=True),
    "galera": Galera,
    "galera11.8": partial(Galera, "11.8"),
}


@pytest.fixture(scope="package", params=CLUSTERS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with needed():
        found = CLUSTERS[request.param]()
    with found:
        yield furnished(found)
