"""S25: what is run to build and to publish is what was looked at, and may do no more than its job."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PUBLISHER = "pypa/gh-action-pypi-publish@release/v1"
"""The one action that is named by a branch: its authors maintain it for that."""

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="about a checkout; this is not one")


def loaded(path: Path) -> dict[Any, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with the documentation's tools; `make test` installs them")
    return yaml.safe_load(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def unpinned(text: str) -> list[str]:
    """The actions that are not named by the full hash of a commit, with its release beside it."""
    used = re.findall(r"uses: (?!\./)(.+)$", text, re.M)
    return [one for one in used if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)]


def test_actions_are_named_by_the_hash_of_a_release() -> None:
    found = {path.name: unpinned(path.read_text(encoding="utf-8")) for path in WORKFLOWS}
    assert found == {"ci.yml": [], "release.yml": [PUBLISHER]}


@pytest.mark.parametrize(
    "action", ["actions/checkout@v7", "actions/checkout@3d3c42e", "actions/checkout@main # v7.0.1"]
)
def test_the_check_finds_an_action_that_somebody_can_move(action: str) -> None:
    assert unpinned(f"      - uses: {action}\n") == [action]


def test_a_workflow_reads_and_the_job_that_publishes_alone_may_sign() -> None:
    for path in WORKFLOWS:
        workflow = loaded(path)
        assert workflow["permissions"] in ({}, {"contents": "read"}), path.name
        for name, job in workflow["jobs"].items():
            allowed = job.get("permissions", {})
            writes = {right for right, level in allowed.items() if level == "write"}
            publishes = (path.name, name) == ("release.yml", "publish")
            assert writes == ({"id-token", "attestations"} if publishes else set()), f"{path.name}: {name}"
            if publishes:
                assert job["environment"]["name"] == "pypi"
                assert [step for step in job["steps"] if "run" in step] == [], "a command where a signature is allowed"


def test_no_workflow_has_a_stored_secret_leaves_one_behind_or_runs_what_a_stranger_wrote_with_rights() -> None:
    for path in WORKFLOWS:
        text, workflow = path.read_text(encoding="utf-8"), loaded(path)
        assert "secrets." not in text, path.name
        assert "password:" not in text, path.name
        assert "pull_request_target" not in text, path.name
        assert "${{ github.event.pull_request.title" not in text, path.name
        for name, job in workflow["jobs"].items():
            for step in job.get("steps", []):
                if step.get("uses", "").startswith("actions/checkout"):
                    assert step["with"]["persist-credentials"] is False, f"{path.name}: {name}"
                assert "${{ github.head_ref" not in step.get("run", ""), f"{path.name}: {name}"


def test_a_release_is_built_tested_and_attested_before_it_is_uploaded() -> None:
    jobs = loaded(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert set(jobs["publish"]["needs"]) == {"ci", "build"}
    uses = [step["uses"] for step in jobs["publish"]["steps"]]
    assert [use.partition("@")[0] for use in uses] == [
        "actions/download-artifact", "actions/attest-build-provenance", "pypa/gh-action-pypi-publish",
    ]  # fmt: skip


def test_the_library_brings_five_libraries_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.match(r"[\w.-]+", one)[0].lower() for one in project["dependencies"]]  # type: ignore[index]
    assert sorted(names) == ["alembic", "click", "msgspec", "sqlalchemy", "tenacity"]


def test_newer_actions_are_proposed_and_not_on_their_first_day() -> None:
    (update,) = loaded(ROOT / ".github" / "dependabot.yml")["updates"]
    assert update["package-ecosystem"] == "github-actions"
    assert update["cooldown"]["default-days"] >= 7


def test_what_is_known_against_a_dependency_is_asked_for_in_ci() -> None:
    jobs = loaded(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert [step["run"] for step in jobs["audit"]["steps"] if "run" in step] == ["make audit"]
    assert "pip-audit --strict" in (ROOT / "Makefile").read_text(encoding="utf-8")
