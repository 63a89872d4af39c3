"""Requests to the API and what comes back: repeated where that is safe, errors as the tree of `leasehold.errors`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

import httpx
from tenacity import RetryCallState, Retrying, stop_before_delay, wait_exponential, wait_random

from leasehold import __version__
from leasehold.errors import (
    BadFilter,
    Conflict,
    Fault,
    Invalid,
    LeaseholdError,
    Malformed,
    NotFound,
    Refused,
    TooLarge,
    Unauthenticated,
    Unavailable,
    from_code,
)
from leasehold.munge import MungeFailed, MungeMissing

Params = Sequence[tuple[str, str]]

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, MungeFailed)
_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, MungeMissing)
_BACKOFF = wait_exponential(multiplier=0.1, max=2) + wait_random(0, 0.1)

# What an answer without problem details (a proxy's, say) means.
_BY_STATUS: Mapping[int, type[LeaseholdError]] = {
    400: Malformed,
    401: Unauthenticated,
    403: Refused,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Invalid,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def is_loopback(url: str) -> bool:
    """Whether `url` names this very machine."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def filters(match: Iterable[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """Write filters as query parameters; `properties.` keeps a key apart from the API's own names."""
    params = [("tags", ",".join(tags))] if tags else []
    for text in match:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadFilter(f"{text!r} is not of the form key=value or key__op=value")
        params.append((f"properties.{key.removeprefix('properties.')}", value))
    return params


def never_sent(error: LeaseholdError) -> bool:
    """Whether the call behind this error cannot have reached the API."""
    return isinstance(error.__cause__, _NOT_SENT)


class Wire:
    """One API's address, credentials and connections. `was_heard` tells whether it ever answered."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        auth: httpx.Auth | None = None,
        transport: httpx.BaseTransport | None,
        timeout: timedelta,
        patience: timedelta,
    ) -> None:
        self._url = _checked(url)
        self._timeout = timeout
        self._patience = patience
        self.was_heard = False
        headers = {"User-Agent": f"leasehold/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {_header('token', token)}"
        direct = is_loopback(url)
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            auth=auth,
            transport=transport,
            # A proxy that the environment names must not see what is meant for this machine, the admin token above all.
            trust_env=not direct,
            # Reading the certificates takes longer than a call, and none is used without TLS, proxy or redirect.
            verify=not (direct and httpx.URL(url).scheme == "http"),
        )

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        *path: str,
        version: str = "v1",
        params: Params = (),
        json: Any = None,
        yaml: bytes | None = None,
        octets: bytes | None = None,
        key: str | None = None,
        repeatable: bool = False,
        held: timedelta | None = None,
        answers: Collection[int] = (),
    ) -> Any:
        """Make one call and return its JSON, None for an empty answer.

        `key` is the Idempotency-Key; calls that have one are repeated, as are reads and PUTs. `held` is how long the
        API may hold its answer, where that is longer than usual. `answers` are statuses that are no errors here.
        """
        content = yaml if yaml is not None else octets
        kind = "application/yaml" if yaml is not None else "application/octet-stream"
        headers = {} if content is None else {"Content-Type": kind}
        if key is not None:
            headers["Idempotency-Key"] = _header("Idempotency-Key", key)
        request = self._build(
            method, _path(version, path), params=params, json=json, content=content, headers=headers, held=held
        )
        again = repeatable or key is not None or method in ("GET", "PUT")
        response = self._send(request, again=again, answers=answers)
        return self._json(response) if response.content else None

    def stream(
        self,
        *path: str,
        params: Params,
        endless: bool = False,
        held: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[bytes]:
        """Yield the body of an answer as it comes.

        `held` is how long the silence between its pieces may be, where that is longer than usual; `endless` allows any.
        """
        silence = timedelta.max if endless else held
        request = self._build("GET", _path("v1", path), params=params, held=silence, headers=headers or {})
        response = self._send(request, again=True, stream=True)
        try:
            with self._translated():
                yield from response.iter_bytes()
        finally:
            response.close()

    def _build(self, method: str, path: str, *, held: timedelta | None, **what: Any) -> httpx.Request:
        read = None if held == timedelta.max else max(held or self._timeout, self._timeout).total_seconds()
        timeout = httpx.Timeout(self._timeout.total_seconds(), read=read)
        try:
            return self._http.build_request(method, path, timeout=timeout, **what)
        except UnicodeEncodeError as error:
            raise Malformed("the request has text that is not UTF-8") from error
        except (ValueError, httpx.InvalidURL) as error:
            raise Malformed(f"the request cannot be written: {error}") from error

    def _send(
        self, request: httpx.Request, *, again: bool, stream: bool = False, answers: Collection[int] = ()
    ) -> httpx.Response:
        retrying = Retrying(
            sleep=time.sleep,
            retry=lambda state: _passes(state, again, answers),
            wait=_pause,
            stop=stop_before_delay(self._patience),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        with self._translated():
            response: httpx.Response = retrying(self._http.send, request, stream=stream)
            if not response.is_success:
                response.read()
        if response.status_code < 500:
            self.was_heard = True
        if not response.is_success and response.status_code not in answers:
            raise _error(response)
        return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            late = isinstance(error, httpx.TimeoutException)
            reason = "no answer in time" if late else str(error).rpartition("] ")[2] or type(error).__name__
            raise Unavailable(f"Leasehold at {self._url} cannot be reached: {reason}") from error
        except MungeFailed as error:
            raise Unavailable(str(error)) from error

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise LeaseholdError(f"what answers at {self._url} is not Leasehold: no JSON came back") from error


def _checked(url: str) -> str:
    """Return the URL as people may see it, without a password; raise `Invalid` unless it is one of HTTP."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Invalid(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Invalid(f"{url!r} is not a URL of the form http://host:port")
    return f"{parsed.scheme}://{parsed.netloc.decode()}{parsed.path.rstrip('/')}"


def _header(what: str, text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise Invalid(f"the {what} may have printable ASCII characters alone")
    return text


def _path(version: str, segments: Sequence[str]) -> str:
    if any(segment in ("", ".", "..") for segment in segments):
        raise NotFound(f"{'/'.join(segments)!r} names nothing")
    try:
        return "/".join(["", *filter(None, [version]), *(quote(segment, safe="") for segment in segments)])
    except UnicodeEncodeError as error:
        raise Malformed("a name has text that is not UTF-8") from error


def _passes(state: RetryCallState, again: bool, answers: Collection[int]) -> bool:
    """Whether this outcome may pass, so that trying again is worth it, and harmless."""
    if state.outcome is None:
        return False
    error = state.outcome.exception()
    if error is None:
        return again and state.outcome.result().status_code == 503 and 503 not in answers
    if isinstance(error, _HOPELESS):
        return False
    return isinstance(error, _NOT_SENT) or (again and isinstance(error, httpx.TransportError))


def _pause(state: RetryCallState) -> float:
    """Seconds until the next try: what `Retry-After` says, else a growing pause with some jitter."""
    if state.outcome is not None and state.outcome.exception() is None:
        response: httpx.Response = state.outcome.result()
        response.read()
        asked = _retry_after(response.headers.get("Retry-After", ""))
        if asked is not None:
            return asked
    return _BACKOFF(state)


def _retry_after(text: str) -> float | None:
    """Seconds or a date (RFC 9110, 10.2.3)."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _error(response: httpx.Response) -> LeaseholdError:
    """Build the error that a problem document (RFC 9457) describes, or one that tells of an answer without one."""
    try:
        problem = response.json()
        places = problem.get("errors") or ()
        faults = [Fault(path=str(f["path"]), code=str(f["code"]), detail=str(f["detail"])) for f in places]
        error = from_code(str(problem["code"]), str(problem["detail"]), faults)
        error.title = str(problem.get("title") or error.title)
    except (ValueError, LookupError, TypeError, AttributeError):
        kind = _BY_STATUS.get(response.status_code, LeaseholdError)
        error = kind(f"{response.request.url} answered {response.status_code} {response.reason_phrase}")
    error.status = response.status_code
    return error
