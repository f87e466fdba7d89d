"""Every experiment in its quick size, at every place; and the page, which is what was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from tests.reliability import page, results
from tests.reliability.cases import EXPERIMENTS
from tests.reliability.mutants import MUTANTS
from tests.reliability.places import PLACES, Place
from tests.reliability.trial import INVARIANTS, Experiment, Trial

KEPT = results.load()
SEED: Final = 261_126
"""One for all runs: a change is to be told from another seed. `make reliability` draws one each time."""
RUNS = [(one, place) for one in EXPERIMENTS.values() if not one.is_mutant for place in one.quick_places]
CAUGHT = [
    (one, name, place)
    for one in EXPERIMENTS.values()
    for name in one.mutants
    for place in [place for place in one.quick_places if MUTANTS[name].is_one_at(place)][:1]
]


def named(value: object) -> str | None:
    if isinstance(value, Experiment):
        return value.name
    return value.key.replace(" ", "-") if isinstance(value, Place) else None


@pytest.mark.parametrize(("experiment", "place"), RUNS, ids=named)
def test_the_invariants_hold_and_the_faults_really_hit(experiment: Experiment, place: Place) -> None:
    trial = experiment.tried(place, seed=SEED, whole=False)
    assert not trial.verdict, f"seed {trial.seed}: {trial.verdict}"


@pytest.mark.parametrize(("experiment", "name", "place"), CAUGHT, ids=named)
def test_a_mistake_that_is_put_in_on_purpose_is_found(experiment: Experiment, name: str, place: Place) -> None:
    trial = experiment.tried(place, seed=SEED, whole=False, mutant=MUTANTS[name])
    assert not trial.verdict, f"seed {trial.seed}: {trial.verdict}"


def test_every_mutant_is_looked_for_and_every_invariant_looked_at() -> None:
    assert {name for one in EXPERIMENTS.values() for name in one.mutants} == MUTANTS.keys()
    assert {name for one in EXPERIMENTS.values() for name in one.invariants} == INVARIANTS.keys()
    assert all(one.mutants for one in EXPERIMENTS.values())
    assert all(any(mutant.is_one_at(place) for place in PLACES) for mutant in MUTANTS.values())


def test_every_place_that_is_named_is_one_and_at_one_of_them_each_mutant_is_looked_for() -> None:
    for one in EXPERIMENTS.values():
        assert len(one.quick_places) == len(one.quick or PLACES), one.name
    looked_for = {(one.name, name) for one, name, _ in CAUGHT}
    assert looked_for == {(one.name, name) for one in EXPERIMENTS.values() for name in one.mutants}


def test_a_run_is_broken_or_invalid_and_a_mutant_survives() -> None:
    trial = Trial(PLACES[0], seed=1, whole=False)
    assert not trial.verdict
    trial.needs("cuts", 2, 100)
    trial.hits["cuts"] += 1
    assert trial.verdict == "INVALID: cuts: 1 of 2"
    trial.hits["cuts"] += 1
    assert not trial.verdict
    trial.promised = ("I1", "I2")
    trial.holds("I1", True, "k has 2 effects")
    assert trial.verdict == "INVALID: nobody looked at I2"
    trial.broken("I1", "k has 2 effects")
    assert trial.verdict == "BROKEN: 1 times, first I1: k has 2 effects"
    mutant = MUTANTS["CHECK_THEN_ACT"]
    assert not replace(trial, mutant=mutant).verdict
    misfit = "I11: k: its caller was told AttributeError: 'MySQL' object has no attribute 'x'"
    assert replace(trial, mutant=mutant, wrong=[misfit]).verdict == (
        f"INVALID: the mutant does not fit the library: {misfit}"
    )
    of_pymysql = """I1: schedule 7: AttributeError("'NoneType' object has no attribute 'read'")"""
    assert not replace(trial, mutant=mutant, wrong=[of_pymysql]).verdict
    assert Trial(PLACES[0], 1, False, mutant).verdict == f"SURVIVES: {mutant.title}"


def test_the_page_is_what_was_found() -> None:
    assert (results.FOLDER / page.PAGE).read_text(encoding="utf-8") == page.render(KEPT), (
        "make reliability ARGS=--render"
    )


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=named)
def test_what_was_found_has_nothing_wrong_and_each_mutant_caught(experiment: Experiment) -> None:
    places = [place for place in PLACES if place.key in KEPT[experiment.name]]
    assert places, "make reliability"
    for place in places:
        here = KEPT[experiment.name][place.key]
        assert here["mutants"].keys() == {name for name in experiment.mutants if MUTANTS[name].is_one_at(place)}
        assert all(found["found"] for found in here["mutants"].values())
        if not experiment.is_mutant:
            run = here["run"]
            assert run["wrong"] == []
            assert [what for what, least in run["least"].items() if run["hits"][what] < least] == []
