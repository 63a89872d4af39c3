"""A notice: people are told of something that happened to a lease, which goes on meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.notify import Notices, Post
    from leasehold.messages import Letter, LetterLost, Notice, SendLetter
    from leasehold.temporal_names import notice_queue
    from workflows import steps

_RETRY = RetryPolicy(initial_interval=timedelta(seconds=5), maximum_interval=timedelta(minutes=15))
_GIVE_UP = timedelta(days=1)
_ONE_TRY = timedelta(minutes=2)
_HEARTBEAT_TIMEOUT = timedelta(seconds=10)


@workflow.defn(name="notice")
class NoticeWorkflow:
    """Sends a notice to each of those concerned; one who cannot be reached is in nobody else's way."""

    @workflow.run
    async def run(self, notice: Notice) -> list[str]:
        """Return what became of each letter."""
        letters: tuple[Letter, ...] = await steps.step(Notices.address_notice, notice)
        return list(await asyncio.gather(*(self._send(notice, letter) for letter in letters)))

    async def _send(self, notice: Notice, letter: Letter) -> str:
        whom = f"{letter.channel}: {letter.to}" if letter.to else letter.channel
        try:
            done = await workflow.execute_activity_method(
                Post.send_letter,
                SendLetter(notice=notice, letter=letter),
                task_queue=notice_queue(workflow.info().task_queue),
                start_to_close_timeout=_ONE_TRY,
                heartbeat_timeout=_HEARTBEAT_TIMEOUT,
                schedule_to_close_timeout=_GIVE_UP,
                retry_policy=_RETRY,
                summary=whom,
            )
        except ActivityError as error:
            reason = _reason(error)
            await steps.step(Notices.give_up_letter, LetterLost(notice=notice, letter=letter, reason=reason))
            return f"{whom}: given up: {reason}"
        return f"{whom}: {done}"


def _reason(error: BaseException) -> str:
    """Why the last try failed, as far as any has said it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ApplicationError):
            return cause.message
        cause = cause.__cause__
    return "it was not sent within a day"
