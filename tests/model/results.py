"""What searches have found, kept beside the page that is made of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.model.cases import STUCK, Case, Mutant
from tests.model.picture import broken
from tests.model.spin import Found

FOLDER = Path(__file__).parents[2] / "docs" / "explanation"
NAME = "model.json"


@dataclass(frozen=True)
class Result:
    """What the search of a case has found, and of which models that is true."""

    found: Found
    digest: str

    @property
    def broken(self) -> str:
        """The property that was seen broken, or nothing. What spin finds unasked is somebody who waits for ever."""
        return self.found.error and (broken(self.found.trail) or STUCK)

    def is_as_it_should(self, case: Case) -> bool:
        """Say whether every property held, or in a mutant the one was broken that it is to break."""
        return self.broken == (case.breaks if isinstance(case, Mutant) else "")


Results = dict[str, Result]
"""By the names of the cases."""


def load(folder: Path = FOLDER) -> Results:
    """Read what was kept; nothing, if nothing was."""
    path = folder / NAME
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Result(Found(**(one["found"] | {"trail": tuple(one["found"]["trail"])})), one["digest"])
        for name, one in kept.items()
    }


def save(results: Results, folder: Path = FOLDER) -> None:
    """Keep results."""
    text = json.dumps({name: asdict(one) for name, one in results.items()}, indent=1, ensure_ascii=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")
