"""Sites: both interfaces, every kind of database, both colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.backends import BACKENDS, db_of
from tests.support.web import SITES, Site

_PAIRS = [
    (interface, backend)
    for interface, backends in {
        "asgi": ("sqlite", "sqlite-async", "postgresql18", "postgresql18-async", "mariadb", "mysql-async"),
        "asgi-threads": ("postgresql18",),
        "wsgi": ("sqlite", "postgresql18", "mysql"),
    }.items()
    for backend in backends
    if backend in BACKENDS
]

Build = Callable[..., Site]


@pytest.fixture(params=_PAIRS, ids=lambda pair: "-".join(pair))
def site(request: pytest.FixtureRequest) -> Iterator[Build]:
    """Builds sites of one interface on one database."""
    interface, backend = request.param
    db, built = db_of(backend), []

    def build(handler: Any, **options: Any) -> Site:
        built.append(SITES[interface](db, handler, **options))
        return built[-1]

    yield build
    for one in built:
        one.close()
