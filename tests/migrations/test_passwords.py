"""A password in a URL reaches the database and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from idemtable import upgrade as steps
from tests.support.migrations import alembic


def test_the_password_is_never_in_an_error(tmp_path: Path) -> None:
    secret = "s3cr3t"
    for url in (
        f"postgresql+psycopg://u:{secret}@127.0.0.1:1/x",
        f"postgresql+psycopg://u:{secret}/p@127.0.0.1:1/x",
        f"postgresql+psycopg://u:a:{secret}@127.0.0.1:{secret}/x",
        f"postgresql+asyncpg://u:{secret}@127.0.0.1:1/x",
        f"mariadb+pymysql://u:{secret}@127.0.0.1:1/x",
        f"mariadb+asyncmy://u:{secret}%25@127.0.0.1:1/x",
        f"u:{secret}@127.0.0.1",
        f"postgresql+psycopg://u:a@{secret}/{secret}@127.0.0.1:1/x",
        f"mysql+pymysql://u:a/{secret}@{secret}/{secret}@127.0.0.1:1/x",
        f"postgresql+psycopg://u:a@{secret}?{secret}@127.0.0.1:1/x",
    ):
        for call in (steps.upgrade, steps.downgrade, steps.check):
            with pytest.raises(Exception) as caught:
                call(url)
            seen: BaseException | None = caught.value
            while seen is not None:
                assert secret not in f"{seen} {seen!r}", url
                seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    for url in (  # a process each
        f"postgresql+psycopg://u:{secret}@127.0.0.1:1/x",
        f"u:{secret}@127.0.0.1",
        f"postgresql+psycopg://u:a@{secret}/{secret}@127.0.0.1:1/x",
    ):
        result = alembic(url, "upgrade", "head")
        assert result.returncode != 0
        assert secret not in result.stdout + result.stderr


def test_a_percent_sign_in_a_password_works(tmp_path: Path) -> None:
    """SQLite takes no password, but the URL goes the same way through the configuration."""
    assert alembic(f"sqlite:///{tmp_path}/a%%b.db", "upgrade", "head").returncode == 0
    assert "PASSWORD" not in steps.sql("postgresql+psycopg://u:PASSWORD%25%40@h/x")
