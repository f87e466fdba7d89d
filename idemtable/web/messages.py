"""What the rules see of HTTP: a request, a response, and the bytes a response is kept as."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ..codecs import Results, register
from ..errors import ResultNotSerializableError


class Headers(Mapping[str, str]):
    """Header fields by name, whatever its case; the lines of a repeated one are joined with a comma."""

    __slots__ = ("_lines",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._lines: dict[str, list[str]] = {}
        for name, value in pairs:
            self._lines.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._lines[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self._lines)}>"  # a value may be somebody's secret

    def lines(self, name: str) -> list[str]:
        """Return the values of a name, a line each."""
        return list(self._lines.get(name.lower(), ()))


def length_of(text: str, most: int) -> int | None:
    """Return the number that a Content-Length is; ``None`` for what is no number, and more than `most` for any larger one.

    Python reads no number of more than 4,300 digits.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0")
    return most + 1 if len(digits) > len(str(most)) else int(digits or "0")


@dataclass(frozen=True, slots=True)
class Request:
    """A request, as the callables of the middleware get it."""

    method: str
    """In capitals."""
    path: str
    """Decoded, with what the application is mounted under."""
    query: str
    """As it was sent, without the question mark."""
    headers: Headers
    body: bytes = b""
    scope: Mapping[str, Any] | None = field(default=None, repr=False)
    """ASGI's, under an ASGI server."""
    environ: Mapping[str, Any] | None = field(default=None, repr=False)
    """WSGI's, under a WSGI server."""


class Response(msgspec.Struct, array_like=True):
    """A response, as ``store`` gets it and as it is kept."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


BODILESS: Final = frozenset({204, 304})
"""Statuses of responses that have no body, whatever the application gave."""


def check_length(response: Response) -> None:
    """Refuse a response that is not as long as it says.

    Raises:
        ResultNotSerializableError: what came is not what was to be sent.
    """
    size = len(response.body)
    for name, value in response.headers if response.status not in BODILESS else ():
        if name.lower() == "content-length" and length_of(value.strip(" \t"), size) != size:
            raise ResultNotSerializableError(
                f"the response has {size} bytes and another Content-Length: answer with all of it, and leave paths whose "
                "files the server sends by itself (X-Sendfile) out of the middleware"
            )


class _Carrier:
    def encode(self, value: Any) -> bytes:
        return _encoder.encode(value)

    def decode(self, data: bytes) -> Any:
        return _decoder.decode(data)


class _Http:
    # Not typed JSON: it would carry a body as base64, a third longer, and a replay is to be the same bytes.
    name = "http"

    def carrier(self, returns: Any) -> _Carrier:
        return _Carrier()


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Response)
_HTTP: Final = _Http()
register(_HTTP)

_ANY_SIZE: Final = 2**40
"""The middleware has a limit of its own, past which the effect is committed all the same."""

RESPONSES: Final = Results(Response, _HTTP, _ANY_SIZE, "the request")
