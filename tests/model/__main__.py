"""`make model`: search the protocol and its mutants, and make the page of what was found."""

from __future__ import annotations

import argparse
import sys
import time

from tests.model import page, results
from tests.model.cases import ALL, PROPERTIES, Case, Mutant
from tests.model.results import Result
from tests.model.spin import search


def main() -> int:
    """Do what the command line says; give the exit code."""
    names = [case.name for case in ALL]
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument(
        "--render", action="store_true", help="make the page of what was found before, and search nothing"
    )
    options = parser.parse_args()
    if unknown := set(options.cases) - set(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    kept = results.load()
    wrong = []
    if not options.render:
        begun = time.monotonic()
        for case in ALL:
            if case.name in (options.cases or names):
                result = kept[case.name] = Result(search(case.path, case.switches, case.way), case.digest)
                print(_line(case, result), flush=True)
                wrong += [] if result.is_as_it_should(case) else [case.title]
        print(f"{len(options.cases or names)} searches, {time.monotonic() - begun:.0f} s. The properties:")
        for name, sentence in PROPERTIES.items():
            print(f"  {name}: {sentence}")
    kept = {case.name: kept[case.name] for case in ALL if case.name in kept}
    results.save(kept)
    page.write(kept)
    if wrong:
        print("Not as it should be: " + "; ".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


def _line(case: Case, result: Result) -> str:
    found, right = result.found, result.is_as_it_should(case)
    if not isinstance(case, Mutant):
        said = f"{', '.join(case.properties)} hold" if right else f"BROKEN: {result.broken}"
    elif right:
        said = f"caught: breaks {result.broken}"
    else:
        said = f"SURVIVES: breaks {result.broken or 'nothing'}, not {case.breaks}"
    trail = [] if right else [f"    {line}" for line in found.trail]
    figures = f"{found.states:,} states, depth {found.depth:,}, {found.seconds} s"
    return "\n".join([f"{case.title}: {figures}; {said}", *trail])


if __name__ == "__main__":
    sys.exit(main())
