"""A notice: people are told of something that happened to a lease, which goes on meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.notify import Notices, Post
    from leasehold.messages import Letter, LetterLost, Notice, SendLetter
    from leasehold.temporal_names import notice_queue
    from workflows import steps

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)
_GIVE_UP = timedelta(days=1)
_ONE_TRY = timedelta(minutes=2)
_HEARTBEAT_TIMEOUT = timedelta(seconds=10)
_ONCE = RetryPolicy(maximum_attempts=1)


@workflow.defn(name="notice")
class NoticeWorkflow:
    """Sends a notice to each of those concerned; one who cannot be reached is in nobody else's way."""

    @workflow.run
    async def run(self, notice: Notice) -> list[str]:
        """Return what became of each letter."""
        letters: tuple[Letter, ...] = await steps.step(Notices.address_notice, notice)
        return list(await asyncio.gather(*(self._send(notice, letter) for letter in letters)))

    async def _send(self, notice: Notice, letter: Letter) -> str:
        """Try until the letter is sent, or refused for good, or a day is over."""
        whom = f"{letter.channel}: {letter.to}" if letter.to else letter.channel
        until, pause, attempt = workflow.now() + _GIVE_UP, _FIRST_PAUSE, 0
        while True:
            attempt += 1
            try:
                return f"{whom}: {await self._try(SendLetter(notice=notice, letter=letter, attempt=attempt), whom)}"
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                reason, is_final = _why(error)
            if is_final or workflow.now() + pause > until:
                await steps.step(Notices.give_up_letter, LetterLost(notice=notice, letter=letter, reason=reason))
                return f"{whom}: given up: {reason}"
            await workflow.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _try(self, order: SendLetter, whom: str) -> str:
        return await workflow.execute_activity_method(
            Post.send_letter,
            order,
            task_queue=notice_queue(workflow.info().task_queue),
            schedule_to_start_timeout=_GIVE_UP,
            start_to_close_timeout=_ONE_TRY,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT,
            retry_policy=_ONCE,
            summary=f"{whom}, attempt {order.attempt}",
        )


def _why(error: ActivityError) -> tuple[str, bool]:
    """Why a try failed, and whether another would be for nothing; nobody knows what a lost worker has sent."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return cause.message, cause.non_retryable
    return "its worker went away, or there is none", False
