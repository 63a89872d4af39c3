"""What tokens are checked against, read again so soon that a revocation is never long unknown."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace

from leasehold.access import Credential
from leasehold.ports import TokenStore

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""How long what was read is believed, from before it was read: so long after a revocation another process knows it."""
NOTED_EVERY_S = 60.0
_NOTE_AFTER_S = 1.0
_MOST = 10_000


@dataclass
class _Known:
    """A token: when it was asked for, with what result, and when its use was noted last, if ever."""

    asked_at: float
    reading: asyncio.Task[Credential | None]
    noted_at: float | None


class Credentials:
    """The credentials of the tokens in use. Callers who come at once share one read."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._used: set[str] = set()
        self._noting: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def of(self, token: str) -> Credential | None:
        """What a token is checked against, as it was at most `FRESH_S` ago; None if there is no such token."""
        known = self._known.get(token)
        if known is None or known.reading.cancelled() or time.monotonic() - known.asked_at > FRESH_S:
            known = self._ask(token, known)
        try:
            # A caller who goes away must not take the answer from the others.
            found = await asyncio.shield(known.reading)
        except BaseException:
            self._drop(token, known)
            raise
        if found is None:
            # Nobody fills our memory with ids that there are not.
            self._drop(token, known)
            return None
        return replace(found, left_s=found.left_s - (time.monotonic() - known.asked_at))

    def _ask(self, token: str, before: _Known | None) -> _Known:
        reading = asyncio.create_task(self._store.credential(token))
        # Its failure is not forgotten where everybody who waited for it has gone away.
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        known = _Known(time.monotonic(), reading, before.noted_at if before else None)
        self._known[token] = known
        self._known.move_to_end(token)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return known

    def _drop(self, token: str, known: _Known) -> None:
        if self._known.get(token) is known:
            del self._known[token]

    def forget(self, token: str) -> None:
        """Believe nothing that was read of a token until now."""
        self._known.pop(token, None)

    def note_use(self, token: str) -> None:
        """Have it written down soon that a token is in use; whoever uses it does not wait for that."""
        known, now = self._known.get(token), time.monotonic()
        if known is None or (known.noted_at is not None and now - known.noted_at < NOTED_EVERY_S):
            return
        known.noted_at = now
        self._used.add(token)
        if self._noting is None:
            self._noting = asyncio.create_task(self._note())

    async def _note(self) -> None:
        while self._used:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _NOTE_AFTER_S)
            used, self._used = sorted(self._used), set()
            try:
                await self._store.used(used)
            except Exception:
                log.exception("which tokens are in use could not be written down")
        self._noting = None

    async def close(self) -> None:
        """Write down what is not yet."""
        self._closing.set()
        if self._noting is not None:
            await self._noting
