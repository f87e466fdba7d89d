"""A state machine as the text of a Mermaid diagram."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Words of the language of state diagrams, in small letters: as the name of a state they end the diagram.
_WORDS: Final = frozenset(
    [
        "as",
        "class",
        "classdef",
        "default",
        "direction",
        "end",
        "fork",
        "hide",
        "join",
        "note",
        "scale",
        "state",
        "style",
    ]
)


def diagram(steps: Mapping[str, Sequence[str]]) -> str:
    """Return a ``stateDiagram-v2``: arrows in the order given, from ``[*]`` to the beginnings and to it from the ends.

    Args:
        steps: every state, with those it leads to.
    """
    names = {
        state: state if _PLAIN.fullmatch(state) and state.lower() not in _WORDS else f"s{number}"
        for number, state in enumerate(steps, 1)
    }
    taken = [name for state, name in names.items() if name == state]
    lines = ["stateDiagram-v2"]
    for state, name in names.items():
        if name != state:
            while name in taken:
                name += "_"
            names[state] = name
            text = state.replace('"', "#quot;").replace("\n", " ")
            lines.append(f'    state "{text}" as {name}')
    reached = {to for targets in steps.values() for to in targets}
    lines += [f"    [*] --> {names[state]}" for state in steps if state not in reached]
    lines += [f"    {names[state]} --> {names[to]}" for state, targets in steps.items() for to in targets]
    lines += [f"    {names[state]} --> [*]" for state, targets in steps.items() if not targets]
    return "\n".join(lines) + "\n"
