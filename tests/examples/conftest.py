"""The shop in this process, with its own migrations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from tests.support.shop import alembic


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    from shop.app import create_app

    url = f"sqlite:///{tmp_path / 'shop.db'}"
    alembic(url, "upgrade", "head")
    app = create_app(url)
    yield app
    app.state.engine.dispose()
