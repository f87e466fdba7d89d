"""An application at work on one request: what both interfaces share of judging its response and its failures."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from .before import Before
from .problems import AWAY, away
from .wishes import listen

if TYPE_CHECKING:
    from ..claim.call import Call
    from .exchange import Rules
    from .messages import Response
    from .wishes import Wishes


class BasePerformance:
    """The application at work on one request, in as many attempts as the database asks for.

    Args:
        rules: of the middleware.
        call: what the request asks of the engine.
        around: its scope or environ, which each attempt finds as the first one did.
        method: of the request.
    """

    def __init__(self, rules: Rules, call: Call, around: MutableMapping[str, Any], method: str) -> None:
        listen(rules.settings.place.engine)
        self._rules, self.call, self._around = rules, call, around
        self._is_head = method.upper() == "HEAD"
        self._before: Before | None = None
        self.raised: BaseException | None = None
        """What the application has raised in the last attempt."""
        self._behind: Exception | None = None
        """An error of the database that it has made a response of: the answer, if nothing comes of another attempt."""

    def _begin(self) -> None:
        self.raised = self._behind = None
        if self._before is None:
            # What an ASGI server keeps in the state is there for all requests.
            self._before = Before(self._around, shared="state")
        else:
            self._before.restore()

    def _judged(self, response: Response, wishes: Wishes) -> Any:
        """Return what the engine is to make of a response; raise what the database has asked behind it."""
        outcome = self._rules.judged(self.call, response, is_head=self._is_head, keep=wishes.keep, frees=wishes.frees)
        if (error := wishes.error) is not None and self._rules.asks_again(outcome, error):
            self._behind = error
            raise error
        return outcome

    def failed(self, error: Exception) -> Response | None:
        """Return the answer to a request that has ended in an error; ``None`` where the application has one itself.

        Raises:
            Exception: the error, where it is the application's.
        """
        if self._behind is not None and self._behind in (error, error.__cause__):
            return None
        if self._before is not None:
            self._before.restore()  # or a visitor whose order was undone would be told so, and find an empty cart
        if isinstance(error, AWAY) and error is not self.raised:
            return away(error, self._rules.docs)
        raise error
