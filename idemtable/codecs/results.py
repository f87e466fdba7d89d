"""The results of one function: tried when they are stored, so that no replay is a surprise."""

from __future__ import annotations

from typing import Any, Final

from ..errors import ResultNotSerializableError, ResultTooLargeError, ResultUnreadableError
from ..nature import by_nature
from .codec import Codec, named, type_name
from .same import difference
from .unquoted import unquoted

_DECLARED: Final = "Declare the type that is returned, or pass returns="
_PLAINLY: Final = "Return plain values (tuple(row), list(items)), declare the type that is returned, or pass returns="


class Results:
    """Stores and reads the results of one function: its type, its codec, its largest size."""

    def __init__(self, returns: Any, codec: Codec, limit: int, scope: str) -> None:
        self.codec = codec.name
        self._returns = returns
        self._limit = limit
        self._scope = scope
        self._carrier = codec.carrier(returns)

    def pack(self, value: Any) -> tuple[bytes, Any]:
        """Return the bytes to store and the value as a replay will give it.

        Raises:
            ResultNotSerializableError: what comes back would not be what went in.
            ResultTooLargeError: more bytes than `max_result_bytes`.
        """
        try:
            data = self._carrier.encode(value)
            decoded = self._carrier.decode(data)
        except Exception as error:
            if not by_nature(error, lambda: self._carrier.decode(self._carrier.encode(value))):
                raise
            shown = unquoted(error, self._returns)
            cure = _PLAINLY if isinstance(error, TypeError) else _DECLARED
            raise self._refused(value, f"{type(error).__name__}: {shown}", cure) from shown
        if not isinstance(data, bytes):  # some drivers store a text all the same, and no replay can read it
            raise self._refused(value, f"the codec {self.codec!r} has made a {type(data).__name__} of it, not bytes")
        if len(data) > self._limit:
            raise ResultTooLargeError(
                f"the result of {self._scope} has {len(data)} bytes, more than the {self._limit} allowed: return less "
                f"(an id instead of a document), or raise max_result_bytes; the effect was rolled back",
                scope=self._scope,
                size=len(data),
                limit=self._limit,
            )
        try:
            found = difference(value, decoded)
        except Exception as error:  # of the value's own code
            if not by_nature(error, lambda: difference(value, decoded)):
                raise
            raise self._refused(value, f"it cannot be compared: {type(error).__name__}: {error}") from error
        if found is not None:
            raise self._refused(value, found.removeprefix(": "))
        return data, decoded

    def _refused(self, value: Any, why: str, cure: str = _DECLARED) -> ResultNotSerializableError:
        if value is None:
            cure = "Return a result (in a block, assign claim.result), or declare with returns= that it may be None"
        return ResultNotSerializableError(
            f"the result of {self._scope}, a {type(value).__name__}, does not survive storage as "
            f"{type_name(self._returns)}: {why}. {cure}; the effect was rolled back",
            scope=self._scope,
        )

    def nothing(self) -> Any:
        """Return the result of a key that a batch has claimed, for which nothing was encoded: ``None``.

        Raises:
            ResultUnreadableError: the declared type has no ``None``.
        """
        try:
            self.pack(None)
        except ResultNotSerializableError as error:
            raise ResultUnreadableError(
                f"{self._scope}: a batch (unseen, claim_many) has claimed this key and keeps no result, but "
                f"{type_name(self._returns)} is declared. What it stands for is done, and nothing runs again",
                scope=self._scope,
            ) from error
        return None

    def unpack(self, codec: str | None, data: bytes | None) -> Any:
        """Return a stored result.

        Raises:
            ResultUnreadableError: the codec is not known, or the bytes are not of the declared type. The row stays.
        """
        try:
            return self._decoded(codec, data)
        except Exception as error:
            if not by_nature(error, lambda: self._decoded(codec, data)):
                raise
            shown = unquoted(error, self._returns)
            why = f"no codec named {codec!r} is registered" if isinstance(error, KeyError) else str(shown)
            raise ResultUnreadableError(
                f"the stored result of {self._scope} cannot be read as {type_name(self._returns)}: {why}. The row stays "
                f"and the function does not run again; teach the program the old form, or forget the key",
                scope=self._scope,
                codec=codec,
            ) from shown

    def _decoded(self, codec: str | None, data: bytes | None) -> Any:
        carrier = self._carrier if codec == self.codec else named(codec).carrier(self._returns)
        return carrier.decode(data or b"")
