"""Telling people: to whom a notice goes, sending each letter, and what is left of one that could not be sent."""

from __future__ import annotations

import asyncio
import logging

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.allocate import as_failure
from activities.heartbeat import heartbeats
from leasehold.errors import LeaseholdError
from leasehold.messages import Letter, LetterLost, Notice, SendLetter
from leasehold.ports import NotSent, Sender, Store, Writing

WITHIN_S = 60.0
"""How long one try may take."""

TROUBLE_AFTER = 5
"""So many tries for nothing raise an alert: some minutes."""

log = logging.getLogger(__name__)


class Notices:
    """What a notice's workflow asks of the record: short database steps."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @activity.defn
    async def address_notice(self, notice: Notice) -> tuple[Letter, ...]:
        """Say to whom a notice goes over which channel."""
        return await self._store.letters(notice)

    @activity.defn
    async def give_up_letter(self, order: LetterLost) -> None:
        """Record that somebody could not be told."""
        log.warning("%s over %s was not sent: %s", order.notice.id, order.letter.channel, order.reason)
        await self._store.letter_lost(order)


class Post:
    """Sends letters. It has workers of its own, so that a channel that hangs is in no hook's way."""

    def __init__(self, store: Store, sender: Sender) -> None:
        self._store = store
        self._sender = sender

    @activity.defn
    async def send_letter(self, order: SendLetter) -> str:
        """Send a letter once, and say whether there was any use in it."""
        try:
            writing = await self._store.writing(order)
        except LeaseholdError as error:
            raise as_failure(error) from None
        if writing is None:
            return "not needed any more"
        channel = order.letter.channel
        try:
            async with heartbeats():
                await self._send(writing)
        except NotSent as error:
            if not error.is_final and order.attempt >= TROUBLE_AFTER:
                await self._note(channel, str(error))
            # Not this process's fault, so nothing for its log: it is in Temporal, and in the end in an event.
            benign = ApplicationErrorCategory.BENIGN
            reason = str(error)
            raise ApplicationError(reason, type="not_sent", non_retryable=error.is_final, category=benign) from None
        await self._note(channel, None)
        return "sent"

    async def _send(self, writing: Writing) -> None:
        try:
            async with asyncio.timeout(WITHIN_S):
                await self._sender.send(writing)
        except TimeoutError:
            raise NotSent("the channel did not answer in time") from None

    async def _note(self, channel: str, trouble: str | None) -> None:
        """Raise or lower the channel's alert; where the database fails, what was sent must not be sent again."""
        try:
            await self._store.channel_trouble(channel, trouble)
        except LeaseholdError as error:
            log.warning("the alert of channel %s is not up to date: %s", channel, error)
