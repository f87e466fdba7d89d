"""A race as a picture: SVG that stands in a page by itself, with a lane for each caller."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from .race import Event, Mark, Race

_LEFT, _WIDTH, _RIGHT = 150, 560, 130
_LANE: Final = 24
_HEAD: Final = 6
_FOOT: Final = 20

_MEANS: Final = {
    Mark.CALLS: ("claims", "it has called, and claims or waits"),
    Mark.ENTERS: ("runs", "its function runs"),
    Mark.LEAVES: ("ends", "it stores its result and commits"),
    Mark.CUT: ("claims", "it begins again"),
}
"""What begins with a mark: its class in the page's style, and what it is."""
LEGEND: Final = {
    "claims": "it claims, or waits",
    "runs": "its function runs",
    "ends": "it stores its result and commits",
    "cut": "its connection or process was ended",
}
_ENDS: Final = (Mark.RAN, Mark.REPLAYED, Mark.FAILED)


def picture(race: Race) -> str:
    """Draw a race."""
    positions = _positions(race)
    height = _HEAD + _LANE * len(race.lanes) + _FOOT
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(race.title)}</title>",
    ]
    for lane, name in enumerate(race.lanes):
        parts += _lane(race, lane, name, positions)
    parts += _axis(race, positions, height)
    parts.append("</svg>")
    return "\n".join(parts)


def _positions(race: Race) -> dict[int, float]:
    """Say how far to the right each event is: by its time, or by its place in the order."""
    events = race.events
    if not events:
        return {}
    if race.in_order:
        return {id(event): _LEFT + _WIDTH * n / max(1, len(events) - 1) for n, event in enumerate(events)}
    last = max(event.at for event in events) or 1.0
    return {id(event): _LEFT + _WIDTH * event.at / last for event in events}


def _lane(race: Race, lane: int, name: str, positions: dict[int, float]) -> Iterator[str]:
    top = _HEAD + _LANE * lane
    middle = top + _LANE / 2
    yield f'<text class="name" x="{_LEFT - 8}" y="{middle + 4:.0f}">{escape(name)}</text>'
    yield f'<line class="lane" x1="{_LEFT}" y1="{middle}" x2="{_LEFT + _WIDTH}" y2="{middle}"/>'
    own = [event for event in race.events if event.lane == lane]
    bounds = [event for event in own if event.mark in _MEANS or event.mark in _ENDS]
    end = _LEFT + _WIDTH
    for event, following in zip(bounds, [*bounds[1:], None], strict=True):
        if event.mark not in _MEANS:
            continue
        kind, text = _MEANS[event.mark]
        x = positions[id(event)]
        wide = max(1.0, (positions[id(following)] if following is not None else end) - x)
        yield (
            f'<rect class="{kind}" x="{x:.1f}" y="{top + 4}" width="{wide:.1f}" height="{_LANE - 8}">'
            f"<title>{escape(f'{name}: {text}, from {event.at * 1000:.1f} ms')}</title></rect>"
        )
    for event in own:
        yield from _mark(event, positions[id(event)], top, middle)
    if answers := [event for event in own if event.mark in _ENDS]:
        last = answers[-1]
        said = last.text or last.mark.value
        kind = "failed" if last.mark is Mark.FAILED else "said"
        yield f'<text class="{kind}" x="{_LEFT + _WIDTH + 8}" y="{middle + 4:.0f}">{escape(said)}</text>'


def _mark(event: Event, x: float, top: float, middle: float) -> Iterator[str]:
    said = f"<title>{escape(f'{event.text or event.mark.value}, {event.at * 1000:.1f} ms')}</title>"
    if event.mark is Mark.CUT:
        a, b = 5, middle
        path = f"M{x - a:.1f} {b - a} L{x + a:.1f} {b + a} M{x - a:.1f} {b + a} L{x + a:.1f} {b - a}"
        yield f'<path class="cut" d="{path}">{said}</path>'
    elif event.mark is Mark.STEP:
        yield f'<circle class="step" cx="{x:.1f}" cy="{middle}" r="2.5">{said}</circle>'
    elif event.mark in _ENDS:
        yield f'<line class="answer" x1="{x:.1f}" y1="{top + 2}" x2="{x:.1f}" y2="{top + _LANE - 2}">{said}</line>'


def _axis(race: Race, positions: dict[int, float], height: float) -> Iterator[str]:
    y = height - _FOOT + 14
    if race.in_order or not race.events:
        yield f'<text class="axis" x="{_LEFT}" y="{y}">one after the other, not to scale</text>'
        return
    last = max(event.at for event in race.events)
    for share in (0.0, 0.5, 1.0):
        text = f"{last * share * 1000:.1f} ms"
        yield f'<text class="axis" x="{_LEFT + _WIDTH * share:.0f}" y="{y}">{text}</text>'
