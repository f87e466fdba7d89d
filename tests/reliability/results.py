"""What experiments have found, kept beside the page that is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.reliability.trial import Trial

FOLDER = Path(__file__).parents[2] / "docs" / "explanation"
NAME = "reliability.json"

Results = dict[str, dict[str, dict[str, Any]]]
"""By the experiment's name and the place's key."""


def kept(trial: Trial) -> dict[str, Any]:
    """What is kept of a run."""
    found = {"seed": trial.seed, "whole": trial.whole, "seconds": trial.seconds, "tried": trial.tried}
    if trial.mutant is not None:
        return {
            **found,
            "found": 0 if trial.verdict else len(trial.wrong),
            "first": trial.wrong[0] if trial.wrong else "",
        }
    return {**found, "hits": dict(trial.hits), "least": trial.least, "wrong": trial.wrong, "figures": trial.figures}


def add(results: Results, experiment: str, trial: Trial) -> None:
    """Note what a run found."""
    here = results.setdefault(experiment, {}).setdefault(trial.place.key, {"mutants": {}})
    if trial.mutant is None:
        here["run"] = kept(trial)
    else:
        here["mutants"][trial.mutant.name] = kept(trial)


def load(folder: Path = FOLDER) -> Results:
    """Read what was kept; nothing, if nothing was."""
    path = folder / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}  # type: ignore[no-any-return]


def save(results: Results, folder: Path = FOLDER) -> None:
    """Keep results."""
    (folder / NAME).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
