"""`make reliability`: the experiments, one after the other, and the page of what was found."""

from __future__ import annotations

import argparse
import random
import sys

from tests.reliability import page, results, whole_servers
from tests.reliability.cases import EXPERIMENTS
from tests.reliability.mutants import MUTANTS
from tests.reliability.places import ENGINES, PATHS, PLACES
from tests.reliability.trial import Trial
from tests.support.backends import close_all


def main() -> int:
    """Do what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(EXPERIMENTS)}, E14")
    parser.add_argument("--engine", action="append", choices=list(ENGINES))
    parser.add_argument("--path", action="append", choices=PATHS)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--quick", action="store_true", help="in the size in which the tests run them")
    parser.add_argument("--without-mutants", action="store_true")
    parser.add_argument("--render", action="store_true", help="make the page of what was found before, and run nothing")
    options = parser.parse_args()
    if unknown := set(options.names) - {*EXPERIMENTS, "E14"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    kept = results.load()
    wrong = [] if options.render else _run(options, kept)
    page.write(kept)
    if wrong:
        print("Not as it should be:\n" + "\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


def _run(options: argparse.Namespace, kept: results.Results) -> list[str]:
    wrong = []
    places = [
        place
        for place in PLACES
        if place.engine in (options.engine or ENGINES) and place.path in (options.path or PATHS)
    ]
    try:
        for name in options.names or [*EXPERIMENTS, "E14"]:
            if name == "E14":
                whole_servers.report(options.seed, quick=options.quick)
                continue
            experiment = EXPERIMENTS[name]
            for place in places:
                runs = [] if experiment.is_mutant else [None]
                if not options.without_mutants:
                    runs += [one for one in map(MUTANTS.__getitem__, experiment.mutants) if one.is_one_at(place)]
                for mutant in runs:
                    trial = experiment.tried(place, seed=options.seed, whole=not options.quick, mutant=mutant)
                    print(_line(name, trial), flush=True)
                    results.add(kept, name, trial)
                    wrong += [f"{name} at {place.title}: {trial.verdict}"] if trial.verdict else []
                results.save(kept)
    finally:
        close_all()
    return wrong


def _line(name: str, trial: Trial) -> str:
    what = f"{name} {trial.place.title}, seed {trial.seed}"
    if trial.mutant is not None:
        said = trial.verdict or f"caught {len(trial.wrong)} times: {trial.wrong[0]}"
        return f"{what}, mutant {trial.mutant.name}: {said} ({trial.seconds} s)"
    hits = ", ".join(f"{what} {count}" for what, count in {**trial.hits, **trial.figures}.items())
    shown = "\n    ".join(["", *trial.wrong[:10]])
    return f"{what}: {trial.verdict or 'holds'}; {trial.tried} tried; {hits} ({trial.seconds} s){shown}"


if __name__ == "__main__":
    sys.exit(main())
