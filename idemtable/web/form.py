"""The one field that is looked for in a form: a token."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from .messages import Request

_MOST_FIELDS = 1000
"""Of a form that is looked through; a browser's has some dozens."""


def field_of(request: Request, name: str) -> str | None:
    """Return a field of a form, ``None`` where there is none, and an empty text for one that is sent twice."""
    kind = request.headers.get("content-type", "")
    what = kind.partition(";")[0].strip().lower()
    if what == "application/x-www-form-urlencoded":
        found = _urlencoded(request.body, name)
    elif what == "multipart/form-data":
        found = _multipart(request.body, kind, name)
    else:
        return None
    if not found:
        return None
    return found[0] if len(found) == 1 else ""


def _urlencoded(body: bytes, name: str) -> list[str]:
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS).get(name, [])
    except ValueError:  # also what is not ASCII
        return []


def _multipart(body: bytes, kind: str, name: str) -> list[str]:
    try:
        head = b"content-type: " + kind.encode("ascii") + b"\r\n\r\n"
        form = BytesParser(policy=HTTP).parsebytes(head + body)
        parts = [part for part in form.iter_parts() if part.get_param("name", header="content-disposition") == name]
        values: list[Any] = [part.get_payload(decode=True) or b"" for part in parts if not part.get_filename()]
        return [value.decode().strip() for value in values]
    except Exception:  # of a body that is no form there is no field
        return []
