"""One run of a hook of the driver `http`: its request, and the polls that follow."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from activities.drivers import request as requests
from activities.drivers.answer import Answer, NoAnswer, client, get_answer
from activities.drivers.remote import Note, Outcome
from activities.drivers.request import CannotStart, Request, hide, label, shown
from activities.drivers.trust import tls_context
from leasehold import durations, templates
from leasehold.errors import Unavailable
from leasehold.http_hook import ANSWER, VARIABLES, HttpFile, UntilFile
from leasehold.ports import Ending, HookCall

POLL_LIMIT = timedelta(seconds=60)
"""So long may the answer to a poll take, before the next one is tried."""

PASSING = frozenset({429, 502, 503, 504})
"""Statuses that say nothing about what is polled for: the server, or one before it, is busy or restarting."""


class _Over(Exception):
    """The run is over."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


class Exchange:
    """What one run sends and gets. `note` hears a line about each request, and about each poll that has news.

    `doing` says what it is at now, `last_body` is what was answered last, for those who end it before it does.
    """

    def __init__(self, call: HookCall, note: Note, poll_limit: timedelta) -> None:
        try:
            self._wanted = HttpFile.model_validate(call.hook.settings)
        except ValidationError:
            # Its words would quote the settings. They were good when they were applied, by another version then.
            raise Unavailable("this worker's version does not understand the hook's settings") from None
        self._call, self._note, self._poll_limit = call, note, poll_limit
        self._folder = Path(call.folder or "/")
        self._secrets: dict[str, str] = json.loads(call.env["LEASEHOLD_SECRETS"])
        self._files: dict[str, str] = {}
        self.doing = "nothing was sent yet"
        self._last_body = b""

    @property
    def last_body(self) -> bytes:
        return self._loggable(self._last_body)

    async def perform(self) -> Outcome:
        """Send the request, wait for what must come, and say how it ended."""
        outcome = await self._perform()
        return replace(outcome, body=await asyncio.to_thread(self._loggable, outcome.body))

    def _loggable(self, body: bytes) -> bytes:
        """An answer as its log has it; one that is a secret itself goes to nobody but the holder, and as it is."""
        return hide(body, [*self._files.values(), *self._secrets.values()]) if self._call.log_stdout else body

    async def _perform(self) -> Outcome:
        try:
            values, request, tls = await asyncio.to_thread(self._prepare)
            async with client(tls) as http:
                return await self._converse(http, request, values)
        except CannotStart as error:
            return Outcome(ending=Ending.NOT_STARTED, detail=f"could not be sent: {error}")
        except _Over as over:
            return over.outcome

    def _prepare(self) -> tuple[dict[str, Any], Request, ssl.SSLContext | None]:
        """On a thread: files may be on a server that hangs, and templates may take a moment."""
        self._files = requests.read_files(self._wanted.files, self._folder)
        values = {**requests.values_of(self._call), "files": self._files, "secrets": self._secrets}
        return values, requests.request(self._wanted, values), self._tls()

    def _tls(self) -> ssl.SSLContext | None:
        until = self._wanted.until
        urls = [self._wanted.url, *([until.url] if until is not None and until.url is not None else [])]
        return tls_context(self._wanted.verify, self._folder) if any(url.startswith("https:") for url in urls) else None

    async def _converse(self, http: httpx.AsyncClient, request: Request, values: dict[str, Any]) -> Outcome:
        until, expected = self._wanted.until, self._wanted.expect
        if until is not None and until.url is None and request.method == "GET":
            # There is nothing to set going, only something to wait for.
            return await self._poll(http, request, until, until.expect or expected, values)
        answer = await self._ask(http, request)
        if until is None:
            return _succeeded(self._shown(request, answer), answer)
        poll = self._get(request)
        if until.url is not None:
            url = await asyncio.to_thread(self._next, until.url, values, answer)
            poll = replace(poll, url=url, label=label(until.url, url))
        return await self._poll(http, poll, until, until.expect, values)

    def _get(self, request: Request) -> Request:
        """A poll: what the request was, without its body and what is said about that."""
        written = {name.lower() for name in self._wanted.headers}
        headers = {
            name: value
            for name, value in request.headers.items()
            if name != "Content-Type" or "content-type" in written
        }
        return replace(request, method="GET", headers=headers, content=None)

    def _next(self, url: str, values: dict[str, Any], answer: Answer) -> str:
        try:
            return requests.url("until.url", url, {**values, **answer.values()}, VARIABLES | ANSWER)
        except CannotStart as error:
            # The request was sent.
            raise _Over(Outcome(ending=Ending.FAILED, detail=str(error), body=answer.body)) from None

    async def _ask(self, http: httpx.AsyncClient, request: Request) -> Answer:
        """Send the request; its answer is one that was expected."""
        self.doing = f"{self._shown(request)}: no answer yet"
        started = time.monotonic()
        try:
            answer = await get_answer(http, request)
        except NoAnswer as error:
            detail = self._shown(request, error)
            self._note(f"{detail}, after {time.monotonic() - started:.3f} s")
            raise _Over(Outcome(ending=Ending.FAILED, detail=detail)) from None
        self._note(f"{self._shown(request, answer)} in {time.monotonic() - started:.3f} s")
        self._check(request, answer, self._wanted.expect)
        return answer

    async def _poll(
        self,
        http: httpx.AsyncClient,
        request: Request,
        until: UntilFile,
        expected: Sequence[int] | None,
        values: dict[str, Any],
    ) -> Outcome:
        """Ask again and again until the expression holds."""
        holds = templates.expression(until.holds, VARIABLES | ANSWER)
        started, polls, told = time.monotonic(), 0, ""
        while True:
            polls += 1
            answer = await self._look(http, request)
            news = self._shown(request, answer)
            if isinstance(answer, Answer) and not _passes(answer, expected):
                self._check(request, answer, expected)
                if await asyncio.to_thread(_true, holds, {**values, **answer.values()}, answer):
                    self._note(f"{news}, and until.holds, after {polls} polls in {time.monotonic() - started:.1f} s")
                    return _succeeded(news, answer)
                news = f"{news}, and until.holds is not true yet"
            self.doing = news
            if news != told:
                self._note(news)
                told = news
            await asyncio.sleep(until.every.total_seconds())

    async def _look(self, http: httpx.AsyncClient, request: Request) -> Answer | NoAnswer:
        """Poll once; what cannot be reached now may be later."""
        try:
            async with asyncio.timeout(self._poll_limit.total_seconds()):
                return await get_answer(http, request)
        except NoAnswer as error:
            return error
        except TimeoutError:
            return NoAnswer(f"no answer within {durations.render(self._poll_limit)}")

    def _check(self, request: Request, answer: Answer, expected: Sequence[int] | None) -> None:
        self._last_body = answer.body
        if not _is_expected(answer, expected):
            wanted = " or ".join(map(str, expected)) if expected else "2xx"
            detail = f"{self._shown(request, answer)}, expected {wanted}"
            raise _Over(Outcome(ending=Ending.FAILED, code=answer.status, detail=detail, body=answer.body))

    def _shown(self, request: Request, result: Answer | NoAnswer | None = None) -> str:
        """A request, and what came of it, in a log or an error."""
        what = shown(request)
        if result is None:
            return what
        return f"{what}: {result.status if isinstance(result, Answer) else result}"


def _succeeded(detail: str, answer: Answer) -> Outcome:
    return Outcome(ending=Ending.EXITED, code=0, detail=detail, body=answer.body)


def _is_expected(answer: Answer, expected: Sequence[int] | None) -> bool:
    return answer.status in expected if expected else 200 <= answer.status < 300


def _passes(answer: Answer, expected: Sequence[int] | None) -> bool:
    return answer.status in PASSING and not _is_expected(answer, expected)


def _true(holds: templates.Expression, values: dict[str, Any], answer: Answer) -> bool:
    try:
        return holds.holds(values)
    except templates.NotRendered as error:
        detail = f"until.holds: {error}"
        raise _Over(Outcome(ending=Ending.FAILED, detail=detail, body=answer.body)) from None
