"""A trail as a sequence diagram."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_NAMES = {
    "protocol.pml": {"C": "Caller", "P": "Purger", "D": "Database"},
    "joined.pml": {"T0": "Call around them", "T": "Task", "D": "Connection"},
    "nodes.pml": {"C": "Caller", "N": "Node"},
}
_ARROW = re.compile(r"(\w+)(-?-(?:>>|x))(\w+): (.*)")
_NOTE = re.compile(r"Note over ([\w,]+): (.*)")
_END = re.compile(r"!! (.*?): (.*)")


def broken(trail: Sequence[str]) -> str:
    """Say which property a trail ends in the breach of; empty where it does not say."""
    found = [match for line in trail if (match := _END.fullmatch(line))]
    return found[-1][1] if found else ""


def draw(file: str, trail: Sequence[str], *, outer: str = "") -> str:
    """Draw what happens on a trail, in Mermaid.

    Args:
        file: of the model.
        trail: what the model says on the way.
        outer: what the one around the tasks is called, if it is no call.
    """
    names = _NAMES[file] | ({"T0": outer} if outer else {})
    steps = list(_joined(trail))
    # Numbers say in which order spin made them; readers want to meet A before B.
    met = list(dict.fromkeys(who for people, _ in steps for who in people))
    order = sorted(met, key=lambda who: list(names).index(_kind(who, names)))
    lines = ["sequenceDiagram"]
    for who in order:
        kind = _kind(who, names)
        alike = [one for one in met if _kind(one, names) == kind]
        letter = f" {chr(ord('A') + alike.index(who))}" if who[1:] and kind != who else ""
        lines.append(f"    participant {who} as {names[kind]}{letter}")
    everybody = f"{order[0]},{order[-1]}" if len(order) > 1 else order[0]
    lines += [f"    {line.replace('*', everybody)}" for _, line in steps]
    return "\n".join(lines)


def _joined(trail: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """Give those who take part in each line, and the line; what is noted over one of them in a row is one note."""
    over, notes = "", []
    for line in [*trail, ""]:
        note = _NOTE.fullmatch(line)
        if notes and (note is None or note[1] != over):
            yield over.split(","), f"Note over {over}: {', '.join(notes)}"
            notes = []
        if note is not None:
            over, notes = note[1], [*notes, note[2]]
        elif arrow := _ARROW.fullmatch(line):
            yield [arrow[1], arrow[3]], line
        elif end := _END.fullmatch(line):
            yield [], f"Note over *: {end[1]} is broken: {end[2]}"


def _kind(who: str, names: dict[str, str]) -> str:
    return who if who in names else who[0]
