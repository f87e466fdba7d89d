"""The command in this process, and databases that have the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from idemtable import IdemTable
from idemtable.cli import main
from tests.support.cli import SECRET, Ended, Run


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command in this process, as a script would: no terminal anywhere."""
    for name in ("IDEMTABLE_URL", "IDEMTABLE_TABLE", "IDEMTABLE_SCHEMA"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main(list(args), prog_name="idemtable")
        captured = capfd.readouterr()
        assert SECRET not in captured.out + captured.err
        assert "Traceback" not in captured.err or "--debug" in args
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def url(database_url: str, run: Run) -> str:
    """A database with the table."""
    assert run("db", "upgrade", "--url", database_url).code == 0
    return database_url


@pytest.fixture
def idem(url: str) -> Iterator[IdemTable]:
    engine = sa.create_engine(url)
    yield IdemTable(engine)
    engine.dispose()


@pytest.fixture
def file_url(tmp_path: Path, run: Run) -> str:
    """A SQLite file with the table, for what does not depend on the database."""
    url = f"sqlite:///{tmp_path / 'file.db'}"
    assert run("db", "upgrade", "--url", url).code == 0
    return url
