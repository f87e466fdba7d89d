"""The seal: the last thing done to bytes before they go into a row, and the first when they come out.

It lies under every codec and under remembered exceptions alike, so that nothing that a function gave or raised is in the
table as it was. Without one, bytes go in as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable
from uuid import UUID

from ..errors import ResultNotSerializableError, ResultUnreadableError
from ..nature import by_nature

if TYPE_CHECKING:
    from ..model import Request, Status, Stored


class SealContext(bytes):
    """The row that bytes belong to: itself the bytes to authenticate with them (an AEAD's associated data).

    They name the row's id, codec and status, so that what was moved into another row does not open there.

    Attributes:
        tenant: whose the row is, for a key of the tenant's own.
        scope: of the call.
    """

    tenant: str | None
    scope: str

    def __new__(cls, id: UUID, tenant: str | None, scope: str, codec: str, status: Status) -> SealContext:
        """Write the parts one after the other; only the last has no fixed length."""
        self = super().__new__(cls, id.bytes + status.code.to_bytes(2, "big") + codec.encode())
        self.tenant, self.scope = tenant, scope
        return self


@runtime_checkable
class Seal(Protocol):
    """What makes the bytes in a row unreadable to whoever only has the row."""

    def seal(self, data: bytes, context: SealContext) -> bytes:
        """Return the bytes to store."""

    def open(self, data: bytes, context: SealContext) -> bytes:
        """Return what was sealed; raise any exception for bytes that were not sealed so, or in another context."""


def sealed(seal: Seal, data: bytes, request: Request, codec: str, status: Status) -> bytes:
    """Return the bytes that go into the request's row.

    Raises:
        ResultNotSerializableError: the seal has made no bytes of them.
    """
    made = seal.seal(data, SealContext(UUID(bytes=request.id), request.tenant, request.scope, codec, status))
    if isinstance(made, bytes):
        return made
    raise ResultNotSerializableError(
        f"{request.scope}: {type(seal).__name__}.seal() has returned a {type(made).__name__}, which no replay could open: "
        f"return bytes; the effect was rolled back",
        scope=request.scope,
    )


def opened(seal: Seal, stored: Stored, request: Request) -> bytes | None:
    """Return the bytes of the row that a request found, as a codec wrote them.

    Raises:
        ResultUnreadableError: the seal does not open them. The row stays and nothing runs.
    """
    data, record = stored.result, stored.record
    if data is None:
        return None
    codec = record.codec or ""
    context = SealContext(UUID(bytes=request.id), request.tenant, request.scope, codec, record.status)
    try:
        return seal.open(data, context)
    except Exception as error:
        if not by_nature(error, lambda: seal.open(data, context)):
            raise
        raise ResultUnreadableError(
            f"the stored result of {request.scope} cannot be opened with this seal: {type(error).__name__}. The row "
            f"stays and the function does not run again; give the table the seal that the row was written with, or "
            f"forget the key",
            scope=request.scope,
            codec=codec,
        ) from error
