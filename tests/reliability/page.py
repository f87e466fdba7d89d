"""The page of the experiments, made from what was found and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reliability.cases import EXPERIMENTS
from tests.reliability.mutants import MUTANTS
from tests.reliability.places import PLACES
from tests.reliability.results import FOLDER, NAME, Results
from tests.reliability.trial import INVARIANTS, Experiment

PAGE = "reliability.md"

_HEAD = f"""<!-- Made by `make reliability` from {NAME}, which it keeps beside this page: change neither by hand. -->

# How it is tried

Experiments on real servers: callers, processes and servers are killed, lines are cut, transactions are paused, and
afterwards what callers were told is held against what the database says. Each runs on every engine and over both paths:
**fused**, where COMMIT travels with the result, and **plain**, statement by statement.

```console
make reliability                                        # all of it, and this page: half an hour an engine and more
make reliability ARGS="E3 E5 --engine mysql9.7"         # some experiments, on one engine
make reliability ARGS="E3 --seed 4711 --quick"          # the size that make test runs them in, with a seed of yours
make soak HOURS=8                                       # load, kills, cuts, stops and purges for hours
```

A run can fail in three ways, and each is exit code 1. It is **broken** if it finds that an invariant does not hold. It is
**invalid** if the faults it is about hit less often than it says, or if it did not look at one of its invariants: a run in
which nothing happened proves nothing. And a mutant **survives**: the library with a mistake put in on purpose, in which the
experiment finds nothing wrong; one that does not fit the library any more, and only fails, is invalid too. The seed draws
the same keys, the same orders and the same moments again; what threads and servers make of them is theirs.
"""

_NOT = """## What is not tried

- The loss of power below the operating system's cache: a server that is killed leaves its pages to the system.
- Several servers: see [Scaling out](../how-to/scaling-out.md).
- The other drivers: the same cuts, deadlocks and cancellations run over each of them in the tests (`tests/faults/`).
- Whole web servers, whose clients hang up and whose workers are killed: `make reliability` runs them too (E14), and they
  are asserted there.
"""


def render(results: Results) -> str:
    """Make the page."""
    lines = [_HEAD, _NOT, *_invariants(), *_mutants()]
    for experiment in EXPERIMENTS.values():
        lines += _experiment(experiment, results.get(experiment.name, {}))
    return "\n".join(lines).rstrip() + "\n"


def write(results: Results, folder: Path = FOLDER) -> None:
    """Make the page anew."""
    (folder / PAGE).write_text(render(results), encoding="utf-8")


def _invariants() -> Iterator[str]:
    yield "## What must hold\n\n| | | looked at by |\n|---|---|---|"
    for name, sentence in INVARIANTS.items():
        by = [one.name for one in EXPERIMENTS.values() if name in one.invariants]
        yield f"| **{name}** | {sentence} | {', '.join(by)} |"
    yield ""


def _mutants() -> Iterator[str]:
    yield "## Mistakes that must be found\n\n| mutant | is a mistake at | looked for by |\n|---|---|---|"
    for name, mutant in MUTANTS.items():
        places = [place for place in PLACES if mutant.is_one_at(place)]
        where = "every place" if len(places) == len(PLACES) else ", ".join(place.title for place in places)
        by = [one.name for one in EXPERIMENTS.values() if name in one.mutants]
        yield f"| {mutant.title} | {where} | {', '.join(by)} |"
    yield ""


def _experiment(experiment: Experiment, results: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield f"## {experiment.name}: {experiment.title}\n\n{experiment.story}\n"
    yield "| | seed | tried | faults that hit | found | mutants, violations seen | seconds |\n|---|---|---|---|---|---|---|"
    for place in PLACES:
        if (here := results.get(place.key)) is not None:
            yield f"| {place.title} | {_row(here)} |"
    yield ""


def _row(here: dict[str, Any]) -> str:
    run = here.get("run")
    mutants = "<br>".join(_mutant(name, found) for name, found in here["mutants"].items()) or "none here"
    seconds = sum(found["seconds"] for found in here["mutants"].values()) + (run["seconds"] if run else 0)
    if run is None:
        seeds = {str(found["seed"]) for found in here["mutants"].values()}
        tried = sum(found["tried"] for found in here["mutants"].values())
        return f"{', '.join(sorted(seeds))} | {tried:,} | | | {mutants} | {seconds:.0f}"
    hits = "<br>".join(f"{what}: {count:,}" for what, count in {**run["hits"], **run["figures"]}.items())
    size = "" if run["whole"] else " (quick)"
    return f"{run['seed']}{size} | {run['tried']:,} | {hits} | {_found(run)} | {mutants} | {seconds:.0f}"


def _found(run: dict[str, Any]) -> str:
    if run["wrong"]:
        return f"**broken: {run['wrong'][0]}**"
    seldom = [what for what, least in run["least"].items() if run["hits"].get(what, 0) < least]
    return f"**invalid: {', '.join(seldom)}**" if seldom else "nothing wrong"


def _mutant(name: str, found: dict[str, Any]) -> str:
    return f"{MUTANTS[name].title}: {found['found']:,}" if found["found"] else f"**{MUTANTS[name].title} survives**"
