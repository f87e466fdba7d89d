"""Many keys at once: who inserts their rows has done them, and nothing runs in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..model import Decision, Replay, Reraise, Status, Stored, TakeOver, Won
from .kinds import KEY, LOOKS, Kind, too_fast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..model import Request
    from .transaction import Transaction


class Many(Kind):
    """The keys of a batch.

    Their rows are finished when they are inserted, without a result. Others wait for them as for those of a call, and see
    them when the transaction has committed.
    """

    status = Status.COMPLETED
    noun, cure = "key", "forget the key, which `idemtable ls --unfinished` shows"

    def __init__(self, keys: Mapping[bytes, str], *, kept: bool) -> None:
        self._keys, self._kept = keys, kept
        self.new: set[bytes] = set()
        """The ids that nobody had, once they were taken."""
        self.taken: dict[bytes, bytes] = {}
        """Those among them whose rows had expired, and the owner who had them."""
        self.mark: str | None = None
        """Of the transaction, where it came along."""

    def holds(self, request: Request, id: bytes) -> bool:
        return id in self._keys

    def take(self, tx: Transaction, request: Request, stale: bytes | None, wait: float) -> bool:
        until = time.monotonic() + wait
        # Two batches that share keys take them in the same order, or each would wait for what the other has.
        ids, size = sorted(self._keys), tx.records.most
        for start in range(0, len(ids), size):
            self._take(tx, request, ids[start : start + size], until)
        return True

    def _take(self, tx: Transaction, request: Request, ids: Sequence[bytes], until: float) -> None:
        records, connection = tx.records, tx.connection

        def remaining() -> float:
            return max(0.0, until - time.monotonic())

        absent, expired = list(ids), dict[bytes, bytes]()
        for _ in range(LOOKS):
            lost = set[bytes]()
            if absent:
                keys = list(map(self._keys.__getitem__, absent)) if self._kept else None
                lost, self.mark = records.claim_many(connection, request, absent, keys, remaining())
            if expired:
                lost |= (late := records.take_over_many(connection, request, sorted(expired), remaining()))
                self.taken.update((id, owner) for id, owner in expired.items() if id not in late)
            self.new.update(ids)
            if not lost:
                return
            self.new -= lost
            absent, expired = [], {}
            for id, stored in records.look_many(connection, request, sorted(lost), remaining()):
                match decision := self.decide(stored, request):
                    case Won():  # it was there a moment ago
                        absent.append(id)
                    case TakeOver(before):
                        expired[id] = before.owner
                    case Replay() | Reraise():
                        pass
                    case _:
                        raise self.refusal(decision, request.scope)
            if not absent and not expired:
                return
            absent.sort()
            ids = [*absent, *expired]
        raise too_fast(self.noun, request.scope)

    def decide(self, stored: Stored | None, request: Request) -> Decision:
        return KEY.decide(stored, request)

    def keep(self, tx: Transaction, request: Request, status: Status, codec: str, data: bytes, along: Any) -> bool:
        return True  # they were kept when they were taken; RELEASE SAVEPOINT fails if the transaction is gone
