"""Forms: the one field that is looked for in them, a token, and what they say whatever boundary the browser has drawn.

Read strictly, and each byte a fixed number of times: what two readers could take for two things is refused. The framework
may find a token there, and the request would run each time it is sent.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from .messages import Request

MOST_FIELDS: Final = 2_000
"""Starlette takes 1,000 fields and 1,000 files."""
_MOST_HEAD: Final = 8_192
"""Bytes of the headers of a field; the longest that a browser writes is the name of a file."""
_MOST_VALUE: Final = 1_024
"""Characters of a field that may be a token, which has 43."""
_MOST_BOUNDARY: Final = 70
"""Characters: RFC 2046 allows no more."""

_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~\w-]+):([^\r\n]*)", re.ASCII)
_PARAMETER: Final = re.compile(r';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))[ \t]*', re.ASCII)


class UnreadableFormError(Exception):
    """A form that may hold a field which is not found in it; the text is for the client."""

    def __init__(self, text: str = "The form is not as RFC 7578 has it.") -> None:
        super().__init__(text)


def field_of(request: Request, name: str) -> str | None:
    """Return a field of a form, ``None`` where there is none.

    Of a field that is sent twice, and of one that is a file, an empty text: taken for none, it would have the request run
    each time it is sent.

    Raises:
        UnreadableFormError: nobody can say whether the form has the field.
    """
    kind = request.headers.get("content-type", "")
    match _word(kind):
        case "application/x-www-form-urlencoded":
            found = _urlencoded(request.body, name)
        case "multipart/form-data":
            found = _multipart(request.body, kind, name)
        case _:
            return None
    if not found:
        return None
    return found[0] if len(found) == 1 else ""


def content_of(request: Request) -> tuple[Any, Any]:
    """Return what two requests must have in common to be one: the type of the body, and its bytes.

    Of a body of several parts these, and not what stands between them: browsers draw another boundary each time they send
    a form. Lists, which no type and no bytes are taken for.
    """
    kind = request.headers.get("content-type")
    if kind is not None and (what := _word(kind)).startswith("multipart/"):
        with suppress(UnreadableFormError):  # then all of its bytes must be the same
            others = _parameters(kind)
            return [what, {name: others[name] for name in others if name != "boundary"}], _cut(request.body, kind)
    return kind, request.body


def _word(kind: str) -> str:
    return kind.partition(";")[0].strip().lower()


def _urlencoded(body: bytes, name: str) -> list[str]:
    fields = body.decode("latin-1").split("&", MOST_FIELDS)
    if len(fields) > MOST_FIELDS:
        raise _too_many()
    found = []
    for field in fields:
        label, _, value = field.partition("=")
        # Three characters for each at most; to decode what is longer takes its time.
        if len(label) <= 3 * len(name) and unquote_plus(label) == name:
            found.append(unquote_plus(value) if len(value) <= _MOST_VALUE else "")
    return found


def _multipart(body: bytes, kind: str, name: str) -> list[str]:
    found = []
    for part in _cut(body, kind)[1:-1] if body else ():
        end = part.find(b"\r\n\r\n", 0, _MOST_HEAD)
        if end < 0:
            raise UnreadableFormError(f"A field of the form has no end of its headers within {_MOST_HEAD} bytes.")
        options, value = _disposition(part[:end].decode("latin-1")), part[end + 4 :]
        if options["name"] == name:
            is_text = len(value) <= _MOST_VALUE and not any(one.startswith("filename") for one in options)
            found.append(value.decode("latin-1").strip() if is_text else "")
    return found


def _cut(body: bytes, kind: str) -> list[bytes]:
    """Return what stands before, between and behind the boundaries of a body of several parts."""
    boundary = _parameters(kind).get("boundary", "")
    if not 0 < len(boundary) <= _MOST_BOUNDARY or not boundary.isascii():
        raise UnreadableFormError()
    mark, text = b"--" + boundary.encode(), b"\r\n" + body
    pieces = text.split(b"\r\n" + mark, MOST_FIELDS + 2)
    if len(pieces) > MOST_FIELDS + 2:
        raise _too_many()
    before, between, behind = pieces[0], pieces[1:-1], pieces[-1]
    if before.strip(b"\r\n") or not (behind + b"\r\n").startswith(b"--\r\n"):
        raise UnreadableFormError()
    # Some readers take a boundary for one behind half an end of a line too.
    ends = text.count(b"\n" + mark) + text.count(b"\r" + mark)
    if ends != len(pieces) - 1 or not all(one.startswith(b"\r\n") for one in between):
        raise UnreadableFormError()
    return pieces


def _disposition(head: str) -> dict[str, str]:
    """Return the parameters of the one header that names a field."""
    found = []
    for line in head.split("\r\n")[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise UnreadableFormError()
        if header[1].lower() == "content-disposition":
            found.append(_parameters(header[2]))
    if len(found) != 1 or "name" not in found[0] or any(one.startswith("name*") for one in found[0]):
        raise UnreadableFormError()
    return found[0]


def _parameters(header: str) -> dict[str, str]:
    """Return what a header says behind its first word, by names in small letters."""
    found: dict[str, str] = {}
    header = header.rstrip("; \t")
    at = len(header.partition(";")[0])
    while at < len(header):
        one = _PARAMETER.match(header, at)
        if one is None or one[1].lower() in found:
            raise UnreadableFormError()
        found[one[1].lower()] = one[3] if one[2] is None else re.sub(r"\\(.)", r"\1", one[2])
        at = one.end()
    return found


def _too_many() -> UnreadableFormError:
    return UnreadableFormError(f"The form has more than {MOST_FIELDS} fields.")
