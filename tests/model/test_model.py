"""The model speaks of the library as it is, and the page of the model as it is: without spin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idemtable.claim.steps import Step
from tests.model import page, results
from tests.model.cases import ALL, CASES, FOLDER, MUTANTS, PROPERTIES, RESTS_ON, STUCK, Case
from tests.model.picture import broken, draw
from tests.model.results import Result
from tests.model.spin import Found

PML = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.pml")}
KEPT = results.load()


def test_the_model_has_the_steps_of_the_library_by_their_names_and_in_their_order() -> None:
    words = re.search(r"steps\.py.*?mtype = \{ (.*?) \}", PML["words.pml"], re.S)
    assert words is not None
    assert words[1].split(", ") == [step.name for step in Step]
    told = {name: set(re.findall(r"\btell\((\w+)\)", text)) - {"step"} for name, text in PML.items()}
    assert told["protocol.pml"] == {step.name for step in Step}
    assert set().union(*told.values()) <= set(Step.__members__)


def test_files_of_the_library_that_the_model_names_are_there() -> None:
    named = {name for text in PML.values() for name in re.findall(r"\b\w+\.py\b", text)}
    assert {"steps.py", "attempt.py", "door.py"} <= named
    assert [name for name in named if not (FOLDER.parents[1] / "idemtable" / "claim" / name).exists()] == []


def test_every_mistake_that_the_model_knows_is_searched_for() -> None:
    known = set(re.findall(r"^#ifndef (\w+)", PML["mutants.pml"], re.M))
    assert known == {case.name.partition("-")[0] for case in [*MUTANTS, *RESTS_ON]}
    for name in known:
        assert re.search(rf"^#define {name} 0$", PML["mutants.pml"], re.M), f"{name} is on"
        assert any(re.search(rf"\b{name}\b", text) for file, text in PML.items() if file != "mutants.pml"), name


def test_the_protocol_itself_is_searched_without_a_mistake() -> None:
    known = set(re.findall(r"^#ifndef (\w+)", PML["mutants.pml"], re.M))
    assert [case.name for case in CASES if known & case.switches.keys()] == []


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_what_was_found_was_found_in_the_model_as_it_is(case: Case) -> None:
    assert case.path.name in PML
    assert KEPT[case.name].digest == case.digest, "the model is another one by now: make model"
    assert KEPT[case.name].is_as_it_should(case)


def test_the_page_is_what_was_found_and_shows_every_mutant_as_caught() -> None:
    text = (results.FOLDER / page.PAGE).read_text(encoding="utf-8")
    assert text == page.render(KEPT), "make model ARGS=--render"
    for case in [*MUTANTS, *RESTS_ON]:
        (row,) = re.findall(rf"^\| \[{re.escape(case.title)}\].*$", text, re.M)
        assert row.endswith("| caught |")
        _, _, below = text.partition(f"\n### {case.title}\n")
        assert "```mermaid\nsequenceDiagram\n" in below.partition("\n### ")[0], case.title
        assert f"{case.breaks} is broken" in below.partition("\n### ")[0], case.title


def test_every_property_is_broken_by_some_mutant() -> None:
    assert {case.breaks for case in [*MUTANTS, *RESTS_ON]} == PROPERTIES.keys()
    assert all(case.properties for case in ALL)
    assert set().union(*(case.properties for case in CASES)) == PROPERTIES.keys()


def test_a_mutant_that_breaks_another_property_or_none_has_survived() -> None:
    mutant, protocol = MUTANTS[0], CASES[0]
    assert mutant.breaks == "I1"
    caught = Result(Found(1, 1, 0.1, "assertion violated 0", ("C1->>D: COMMIT", "!! I1: two effects of one key")), "")
    other = Result(Found(1, 1, 0.1, "assertion violated 0", ("!! I2: it is not there",)), "")
    nothing = Result(Found(1, 1, 0.1), "")
    waits = Result(Found(1, 1, 0.1, "invalid end state", ("C1->>D: COMMIT",)), "")
    assert [one.broken for one in (caught, other, nothing, waits)] == ["I1", "I2", "", STUCK]
    assert [one.is_as_it_should(mutant) for one in (caught, other, nothing, waits)] == [True, False, False, False]
    assert [one.is_as_it_should(protocol) for one in (caught, other, nothing, waits)] == [False, False, True, False]


def test_results_are_the_same_when_they_are_read_again(tmp_path: Path) -> None:
    results.save(KEPT, tmp_path)
    assert results.load(tmp_path) == KEPT
    assert results.load(tmp_path / "none") == {}


def test_a_trail_is_drawn_with_letters_in_the_order_in_which_people_appear() -> None:
    trail = [
        "C2->>D: claim the key: it is mine",
        "Note over C2: CLAIMED",
        "Note over C2: RUNNING",
        "Note over C1: raises",
        "D--xC1: 1213",
        "!! I1: two effects of one key",
    ]
    assert broken(trail) == "I1"
    assert broken(trail[:-1]) == ""
    assert draw("protocol.pml", trail).splitlines() == [
        "sequenceDiagram",
        "    participant C2 as Caller A",
        "    participant C1 as Caller B",
        "    participant D as Database",
        "    C2->>D: claim the key: it is mine",
        "    Note over C2: CLAIMED, RUNNING",
        "    Note over C1: raises",
        "    D--xC1: 1213",
        "    Note over C2,D: I1 is broken: two effects of one key",
    ]
    assert "participant T0 as Application" in draw("joined.pml", ["T1->>T0: comes in"], outer="Application")
