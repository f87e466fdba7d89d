"""The one field that is looked for in a form: a token."""

from __future__ import annotations

import re
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from .messages import Request

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


def field_of(request: Request, name: str) -> str | None:
    """Return a field of a form, ``None`` where there is none.

    Of a field that is sent twice, and of one that is there and cannot be read, an empty text: taken for none, it would
    have the request run each time it is sent.
    """
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
    return parse_qs(body.decode("latin-1"), keep_blank_values=True).get(name, [])


def _multipart(body: bytes, kind: str, name: str) -> list[str]:
    if f'name="{name}"'.encode() not in body and f"name={name}".encode() not in body:
        return []
    boundary = _BOUNDARY.search(kind)
    head = f'content-type: multipart/form-data; boundary="{boundary[1].strip() if boundary else ""}"\r\n\r\n'
    try:
        form = BytesParser(policy=HTTP).parsebytes(head.encode("latin-1") + body)
        parts = [part for part in form.iter_parts() if part.get_param("name", header="content-disposition") == name]
        values: list[Any] = [part.get_payload(decode=True) or b"" for part in parts if not part.get_filename()]
        return [value.decode().strip() for value in values] or [""]
    except Exception:  # whatever the parser makes of a body that somebody has made up
        return [""]
