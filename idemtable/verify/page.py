"""A report as one page of HTML that needs no other file: what was tried, and each race as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Final

from .picture import LEGEND, picture
from .race import Check, Race

if TYPE_CHECKING:
    from . import Report

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #667; --paper: #fff; --line: #d8dbe0;
  --good: #1a7f37; --bad: #c0262d; --claims: #c9ced6; --runs: #3b82c4; --ends: #2f9e6e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --dim: #9aa3ad; --paper: #16191d; --line: #353a41;
  --good: #4cc06c; --bad: #ff7a70; --claims: #4a515b; --runs: #5aa2e0; --ends: #45b886; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.kept { color: var(--good); }
.broken { color: var(--bad); }
.dim { color: var(--dim); }
figure { margin: 1.2rem 0; }
figcaption { color: var(--dim); font-size: .9rem; }
svg { width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--ink); }
svg .name { text-anchor: end; }
svg .axis { fill: var(--dim); }
svg .lane { stroke: var(--line); }
svg .claims { fill: var(--claims); }
svg .runs { fill: var(--runs); }
svg .ends { fill: var(--ends); }
svg .cut { stroke: var(--bad); stroke-width: 2.5; fill: none; }
svg .step { fill: var(--ink); }
svg .answer { stroke: var(--ink); stroke-width: 1.5; }
svg .failed { fill: var(--bad); }
.key { display: inline-block; width: .9em; height: .9em; vertical-align: -.1em; margin: 0 .3em 0 1em; }
"""


def page(report: Report) -> str:
    """Return the page."""
    verdict = "Every promise was kept." if report.kept else "A promise was broken."
    parts = [
        "<!DOCTYPE html>",
        '<html xmlns="http://www.w3.org/1999/xhtml" lang="en">',
        '<head><meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>',
        f"<title>idemtable verify: {escape(report.place)}</title>",
        f"<style>{_STYLE}</style></head>",
        "<body>",
        f"<h1>idemtable verify: {escape(report.place)}</h1>",
        f'<p class="{_kind(report.kept)}"><strong>{verdict}</strong></p>',
        f'<p class="dim">In the table {escape(report.table)}, in {report.seconds:.0f} seconds, seed {report.seed}.</p>',
        "<table><thead><tr><th></th><th>check</th><th>what was tried</th><th>times</th><th>what was seen</th></tr></thead>",
        "<tbody>",
        *(_row(check) for check in report.checks),
        "</tbody></table>",
        *(f'<p class="broken">Left behind: {escape(text)}</p>' for text in report.left_behind),
        f'<p class="dim">In the pictures:{"".join(_key(*one) for one in LEGEND.items() if one[0] != "cut")}'
        f" &#215; {escape(LEGEND['cut'])}.</p>",
    ]
    for check in report.checks:
        parts += _details(check)
    parts += ["</body>", "</html>", ""]
    return "\n".join(parts)


def _kind(kept: bool) -> str:
    return "kept" if kept else "broken"


def _row(check: Check) -> str:
    verdict = "kept" if check.kept else "BROKEN"  # in letters, for not every font has ticks
    return (
        f'<tr><td class="{_kind(check.kept)}">{verdict}</td><td>{escape(check.name)}</td><td>{escape(check.tried)}</td>'
        f'<td class="number">{check.times:,}</td><td>{escape("; ".join(check.said))}</td></tr>'
    )


def _key(name: str, text: str) -> str:
    return f'<span class="key" style="background: var(--{name})"></span>{escape(text)}'


def _details(check: Check) -> Iterator[str]:
    if not (check.races or check.why):
        return
    yield f"<h2>{escape(check.name)}</h2>"
    for text in check.why:
        yield f'<p class="{"dim" if check.kept else "broken"}">{escape(text)}</p>'
    races = sorted(check.races, key=lambda race: not race.broken)
    yield from (_figure(race) for race in races if race.events)


def _figure(race: Race) -> str:
    said = "; ".join(dict.fromkeys(race.broken))
    broken = f' <span class="broken">{escape(said)}</span>' if said else ""
    return f"<figure><figcaption>{escape(race.title)}.{broken}</figcaption>{picture(race)}</figure>"
