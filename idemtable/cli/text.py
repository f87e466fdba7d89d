"""How things look to people and to programs."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from ..model import Finding, Level, Record, Stats

if TYPE_CHECKING:
    from ..verify import Check, Report

_JSON: Final = ("json", "exception")
"""The codecs of the library itself: what they wrote is JSON, or was sealed."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What no text holds, and what would change a terminal."""
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(value: str) -> timedelta:
    """Read a time such as 90s, 15m, 1h30m or 7d."""
    if re.fullmatch(r"(\d{1,6}[smhd])+", value):
        parts = {_UNITS[unit]: int(number) for number, unit in re.findall(r"(\d+)([smhd])", value)}
        if (time := timedelta(**parts)) >= timedelta(seconds=1):
            return time
    raise click.BadParameter(f"{value!r} is no time of a second or more, such as 90s, 15m, 1h30m or 7d")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Lay out rows under their heads; the columns in `right` stand to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(cells)).rstrip()

    return "\n".join(line(row) for row in [head, *rows])


def pairs(facts: dict[str, str]) -> str:
    """Lay out names and values, one a line."""
    width = max(map(len, facts))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items())


def line(facts: dict[str, Any]) -> str:
    """Give facts as one line of JSON."""

    def plain(value: Any) -> Any:
        return value.hex() if isinstance(value, bytes) else value.isoformat()

    return json.dumps(facts, default=plain)


def moment(time: datetime | None) -> str:
    """Give a time to the second, in UTC."""
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(count: int | None) -> str:
    """Give a number of bytes in the unit people would choose."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def record_rows(records: Sequence[Record]) -> str:
    """Lay out records, a line each."""
    head = ("TENANT", "SCOPE", "KEY", "STATUS", "SIZE", "CREATED", "EXPIRES")
    rows = [
        (r.tenant or "-", r.scope, r.key or "-", r.status.value, size(r.result_bytes), moment(r.created_at),
         moment(r.expires_at))
        for r in records
    ]  # fmt: skip
    return table(head, rows, right={4})


def result(record: Record, stored: bytes | None) -> dict[str, str | None]:
    """Give a record's stored result as text, or say why it is none."""
    if stored is None:
        return {"content": None, "content_note": "there is no result"}
    try:
        text = stored.decode()
        if record.codec in _JSON:
            json.loads(text)
            text = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # the same JSON
    except ValueError:
        text = "\0"
    if _UNPRINTABLE.search(text):
        note = f"not text: it was sealed, or the codec {record.codec} writes none"
        return {"content": None, "content_note": note}
    return {"content": text}


def record_facts(record: Record, stored: Mapping[str, str | None]) -> str:
    """Lay out one record, and its result if it was asked for."""
    content = {"content": stored["content"] or f"- ({stored['content_note']})"} if stored else {}
    return pairs({
        "tenant": record.tenant or "-",
        "scope": record.scope,
        "key": record.key or "- (not kept readable)",
        "status": record.status.value,
        "result": f"{size(record.result_bytes)}{f', codec {record.codec}' if record.codec else ''}",
        "fingerprint": record.fingerprint.hex() if record.fingerprint else "- (not checked)",
        "created": moment(record.created_at),
        "completed": moment(record.completed_at),
        "expires": moment(record.expires_at),
    } | content)  # fmt: skip


def record_line(record: Record, stored: Mapping[str, str | None]) -> str:
    """Give one record as a line of JSON, with its result if it was asked for."""
    return line(asdict(record) | dict(stored))


def stats_facts(stats: Stats, place: str) -> str:
    """Lay out the numbers of a table."""
    facts = {
        "of": place,
        "rows": f"{stats.rows:,}",
        "expired": f"{stats.expired:,}",
        "oldest": moment(stats.oldest),
        "size": size(stats.table_bytes),
    }
    facts |= {f"status {status.value}": f"{count:,}" for status, count in stats.by_status.items()}
    facts |= {f"scope {scope}": f"{count:,}" for scope, count in stats.by_scope.items()}
    return pairs(facts)


def stats_line(stats: Stats) -> str:
    """Give the table's numbers as a line of JSON."""
    facts = asdict(stats) | {"by_status": {status.value: count for status, count in stats.by_status.items()}}
    return line(facts | {"by_scope": dict(stats.by_scope)})


def show(records: Sequence[Record], as_json: bool, none: str) -> None:
    """Print records for people or for programs; `none` tells people that there are none."""
    if as_json:
        for record in records:
            click.echo(record_line(record, {}))
    elif records:
        click.echo(record_rows(records))
    else:
        click.echo(none, err=True)


# --- verify and doctor ----------------------------------------------------------------------------------------------------

_SAID: Final = {Level.MEND: ("MEND", "red"), Level.NOTE: ("note", "yellow"), Level.GOOD: ("good", "green")}


def _word(word: str, color: str, width: int) -> str:
    return click.style(word.ljust(width), fg=color, bold=word.isupper())


def check_lines(check: Check) -> str:
    """Lay out what was tried and what was seen."""
    verdict = _word("kept", "green", 6) if check.kept else _word("BROKEN", "red", 6)
    first = f"{verdict}  {check.name:<13}  {check.times:>6,} times  {check.tried}"
    return f"{first}\n{'':37}{'; '.join(check.said)}"


def check_line(check: Check) -> str:
    """Give a check as a line of JSON."""
    return line({
        "check": check.name, "kept": check.kept, "tried": check.tried, "times": check.times, "seen": check.seen,
        "broken": check.broken, "why": check.why, "left_out": check.left_out, "seconds": round(check.seconds, 3),
    })  # fmt: skip


def report_lines(report: Report) -> str:
    """Lay out how a run ended: what may be the reason, where a promise was broken."""
    lines = []
    for text, names in report.why.items():
        lines += [f"{', '.join(names)}: {text}.", ""]
    lines += [f"left behind: {text}" for text in report.left_behind]
    verdict = (
        "every promise was kept" if report.kept else click.style("a promise does not hold here", fg="red", bold=True)
    )
    return "\n".join(["", *lines, f"{verdict}; {report.seconds:.0f} s"])


def report_line(report: Report) -> str:
    """Give how a run ended as a line of JSON."""
    return line({
        "kept": report.kept, "database": report.place, "table": report.table, "seed": report.seed,
        "seconds": round(report.seconds, 3), "left_behind": report.left_behind,
    })  # fmt: skip


def findings(found: Sequence[Finding], place: str) -> str:
    """Lay out what a look at a database found: first what must be mended."""
    order = list(_SAID)
    width = max(len(finding.about) for finding in found)
    lines = [place, ""]
    for finding in sorted(found, key=lambda finding: order.index(finding.level)):
        lines.append(f"{_word(*_SAID[finding.level], 4)}  {finding.about.ljust(width)}  {finding.found}")
        if finding.cure is not None:
            lines.append(f"{'':6}{'':{width}}  cure: {finding.cure}")
    count = sum(finding.level is Level.MEND for finding in found)
    things = "thing needs" if count == 1 else "things need"
    return "\n".join([*lines, "", f"{count} {things} mending" if count else "nothing needs mending"])


def finding_line(finding: Finding) -> str:
    """Give a finding as a line of JSON."""
    return line(asdict(finding))
