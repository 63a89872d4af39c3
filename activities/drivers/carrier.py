"""Carries the requests of a library that blocks its thread, so that the event loop bounds them and can end them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from activities.drivers.answer import BODY_LIMIT, Answer, NoAnswer, get_answer
from activities.drivers.outlast import outlast
from activities.drivers.request import Request
from leasehold import durations

T = TypeVar("T")


class Stopped(BaseException):
    """There is to be no more talk with the server. No library takes this for a failure, and tries again."""


class NotCarried(requests.RequestException):
    """There is no answer; says why, without quoting anything that was sent or received."""


class Carrier(BaseAdapter):
    """Sends what `requests` is asked for, to one server alone, over a client of the event loop that made this.

    Nothing is repeated. An answer that takes longer than `limit` is given up. What blocks is run on one of `threads`.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, threads: Executor, limit: timedelta) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._client, self._origin, self._threads, self._limit = client, _origin(url), threads, limit
        self._stopped = False
        self._at_work: set[asyncio.Task[Answer]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """Do what blocks and sends over this. Cancelled, it ends what is under way, and nothing more is ever sent."""
        future = self._loop.run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._stopped = True
            for task in self._at_work:
                task.cancel()
            await outlast(future)
            raise

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        """On a thread: send a request, and return its answer. Raises `NotCarried`, `Stopped`.

        What to trust, and how long to wait, is the client's and ours to say.
        """
        future = asyncio.run_coroutine_threadsafe(self._carry(request), self._loop)
        try:
            return _response(request, future.result())
        except concurrent.futures.CancelledError:
            raise Stopped from None
        except NoAnswer as error:
            raise NotCarried(str(error), request=request) from None

    def close(self) -> None:
        """The client is whose it was."""

    async def _carry(self, request: requests.PreparedRequest) -> Answer:
        if self._stopped:
            raise Stopped
        task = asyncio.current_task()
        assert task is not None
        self._at_work.add(task)
        try:
            async with asyncio.timeout(self._limit.total_seconds()):
                answer = await get_answer(self._client, self._request(request))
        except TimeoutError:
            raise NoAnswer(f"no answer within {durations.render(self._limit)}") from None
        finally:
            self._at_work.discard(task)
        if not answer.whole:
            raise NoAnswer(f"the answer is longer than {BODY_LIMIT // 1024} KiB")
        return answer

    def _request(self, request: requests.PreparedRequest) -> Request:
        url = request.url or ""
        if _origin(url) != self._origin:
            # It would be given the password.
            raise NoAnswer("the server refers to another one, which is not asked")
        return Request(
            method=request.method or "GET",
            url=url,
            headers={name: _bytes(value) for name, value in request.headers.items()},
            content=None if request.body is None else _bytes(request.body),
        )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _response(request: requests.PreparedRequest, answer: Answer) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status
    response.headers = CaseInsensitiveDict(answer.headers)
    response.raw = io.BytesIO(answer.body)
    response.request, response.url = request, request.url or ""
    return response
