"""The decorator: a function that consumes a token in the transaction of its own writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from ..transactional import AsyncTransactional, Transactional, _BaseTransactional
from .redemption import checked_subject

if TYPE_CHECKING:
    from ..claim import Call

P = ParamSpec("P")
R = TypeVar("R")


class _Redeeming(_BaseTransactional):
    """What a function whose key is a token knows beyond one whose key is the client's.

    Args:
        redeem: makes a call from token, subject and fingerprint, and from what the function was decorated with.
    """

    _specs: ClassVar[tuple[str, str]] = ("token", "subject")

    def __init__(self, *args: Any, redeem: Callable[..., Call], **options: Any) -> None:
        super().__init__(*args, ttl=None, **options)
        self._redeem = redeem

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        given = self._given(args, kwargs)
        return self._redeem(
            self._key(given, args, kwargs),
            None if self._tenant is None else checked_subject(self._tenant(given, args, kwargs)),
            self._fingerprint(given, args, kwargs),
            self._results,
            self._wait,
            self._remember,
        )


class TokenFunction(_Redeeming, Transactional[P, R]):
    """A function that runs at most once for each token; call it without its session."""


class AsyncTokenFunction(_Redeeming, AsyncTransactional[P, R]):
    """The same for ``async def`` and an AsyncSession."""
