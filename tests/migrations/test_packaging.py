"""The migrations are in the wheel, in the sdist and in an editable install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.migrations import ROOT

STEP = "idemtable/migrations/versions/v0001_initial.py"
IMPORT = """
import sys; sys.path.insert(0, sys.argv[1])
import importlib, idemtable
step = importlib.import_module("idemtable.migrations.versions.v0001_initial")
assert step.revision == "0001"
from idemtable import upgrade
print(upgrade.upgrade(sys.argv[2]), step.__file__)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout") / "idemtable"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.db")
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


def build(checkout: Path, what: str, target: Path) -> Path:
    """Call the build backend as pip does, without the network."""
    code = f"import sys, hatchling.build as b; print(b.build_{what}(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return target / result.stdout.split()[-1]


def imports(place: Path, tmp_path: Path) -> Path:
    """Upgrade a database with what stands in this place; give the file of the first step."""
    result = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT, str(place), f"sqlite:///{tmp_path / 'x.db'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ran, file = result.stdout.rsplit(None, 1)
    assert ran == "(1,)"
    return Path(file)


def test_the_wheel_carries_the_migrations(checkout: Path, tmp_path: Path) -> None:
    wheel = build(checkout, "wheel", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {STEP, "idemtable/migrations/env.py", "idemtable/migrations/script.py.mako"} <= names
    assert not [name for name in names if name.startswith(("migrations/", "tests/"))]
    assert imports(tmp_path / "site", tmp_path) == tmp_path / "site" / STEP


def test_the_sdist_carries_the_migrations(checkout: Path, tmp_path: Path) -> None:
    sdist = build(checkout, "sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since 3.11.4
        archive.extractall(tmp_path / "unpacked", **safely)  # type: ignore[arg-type]
    (source,) = (tmp_path / "unpacked").iterdir()
    assert (source / "migrations" / "versions" / "v0001_initial.py").is_file()
    with zipfile.ZipFile(build(source, "wheel", tmp_path)) as archive:
        assert STEP in archive.namelist()


def test_an_editable_install_imports_the_migrations(checkout: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(checkout, "editable", tmp_path)) as archive:
        (pth,) = (name for name in archive.namelist() if name.endswith(".pth"))
        place = Path(archive.read(pth).decode().strip())
    assert imports(place, tmp_path) == checkout / "migrations" / "versions" / "v0001_initial.py"
