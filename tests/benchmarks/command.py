"""What the commands have in common: their options, what they keep and print, and their exit code."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.benchmarks.harness import QUICK, Size
from tests.benchmarks.page import PAGE, keep, write
from tests.benchmarks.results import FOLDER, ROUGH, Part, load
from tests.servers import MissingEngine

Parts = Mapping[str, Callable[[], Part]]


def run(module: str, description: str | None, parts: Callable[[Size], Parts]) -> int:
    """Do what the command line says.

    Args:
        module: that is run.
        description: for its help.
        parts: what can be measured, in runs of some size, by the names that ``--only`` takes.

    Returns:
        The exit code: 1 if a goal was missed, 2 if a part has failed. What could not be measured is said and is no failure.
    """
    names = list(parts(QUICK))
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--only", metavar="PART,…", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="short runs; the page goes to .cache/benchmarks")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the page and its results are")
    parser.add_argument(
        "--render", action="store_true", help="make the page anew from its results, and measure nothing"
    )
    options = parser.parse_args()
    folder: Path = options.to or (ROUGH if options.quick else FOLDER)
    if options.render:
        write(load(folder), folder)
        return 0
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = {name: part for name, part in parts(QUICK if options.quick else Size()).items() if name in wanted}
    return measure(chosen, folder)


def measure(parts: Parts, folder: Path) -> int:
    """Measure parts, each kept as soon as it is there, and say what was missed; give the exit code."""
    missed: list[str] = []
    absent: list[str] = []
    failed: list[str] = []
    for name, part in parts.items():
        try:
            found = part()
        except MissingEngine as error:
            absent.append(f"{name}: {error}")
        except Exception:
            traceback.print_exc()
            failed.append(name)
        else:
            keep({name: found}, folder)
            missed += [f"{found.title}: {goal.what}" for goal in found.goals if goal.met is False]
            absent += [f"{found.title}: {goal.what}" for goal in found.goals if goal.met is None]
    for title, lines in (("Not measured", absent), ("Missed", missed), ("Failed", failed)):
        if lines:
            print(f"\n{title}:", *lines, sep="\n  ")
    print(f"\nThe page is {folder / PAGE}.")
    return 2 if failed else 1 if missed else 0
