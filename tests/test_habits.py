"""The small files beside the library: they can be read, and agree with each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="about a checkout; this is not one")


def tracked(*patterns: str) -> list[str]:
    """Name the files that git knows; one that was deleted and not yet committed is none."""
    command = ["git", "ls-files", "-z", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if (ROOT / name).is_file()]


def yaml_file(name: str) -> object:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with the documentation's tools; `make test` installs them")
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_every_yaml_and_toml_file_parses() -> None:
    names = tracked("*.toml", "*.yml", "*.yaml")
    assert {"pyproject.toml", ".github/workflows/ci.yml", ".pre-commit-config.yaml"} <= set(names)
    for name in names:
        if name.endswith(".toml"):
            assert tomllib.loads((ROOT / name).read_text(encoding="utf-8")), name
        else:
            assert yaml_file(name), name


def test_ci_runs_on_the_versions_of_python_that_the_makefile_looks_for() -> None:
    workflow: dict = yaml_file(".github/workflows/ci.yml")  # type: ignore[assignment]
    versions = set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert versions == set(re.findall(r"\bpython(3\.\d+)", makefile))
    lowest = min(versions, key=lambda version: int(version.partition(".")[2]))
    assert PROJECT["requires-python"] == f">={lowest}"
    classifiers = " ".join(PROJECT["classifiers"])
    assert lowest in (named := set(re.findall(r":: (3\.\d+)", classifiers)))
    assert named <= versions


def test_ci_calls_targets_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow: dict = yaml_file(".github/workflows/ci.yml")  # type: ignore[assignment]
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    called = [step.removeprefix("make ") for step in steps if step.startswith("make ")]
    assert set(called) == {"lint", "test", "test-lowest", "audit", "docs"}
    assert [target for target in called if not re.search(rf"^{target}:", makefile, re.M)] == []


def test_the_changelog_has_a_section_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+) (?:\(unreleased\)|- \d{4}-\d\d-\d\d)$", text, re.M)
    assert PROJECT["version"] in headings


def test_urls_into_the_repository_name_files_that_exist() -> None:
    urls = PROJECT["urls"]
    assert {"Documentation", "Source", "Changelog", "Issues"} <= set(urls)
    for name, url in urls.items():
        if found := re.fullmatch(re.escape(urls["Source"]) + r"/(?:blob|tree)/main/(.+)", url):
            assert (ROOT / found[1]).exists(), f"{name}: {url}"


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    for name in tracked():
        text = (ROOT / name).read_bytes().decode("utf-8", errors="replace")
        assert not (found := re.search(r"/(?:home|Users)/\w[^/\s]*/", text)), f"{name}: {found[0]}"
