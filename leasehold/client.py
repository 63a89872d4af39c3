"""The HTTP client: one method for each call of the API, errors as the tree of `leasehold.errors`.

    with Client("http://127.0.0.1:8700", token) as client:
        lease = client.submit([{"pool": "lab", "count": 2}], duration="4h", wait="active")

Calls that may safely run twice are repeated for a few seconds when the connection fails or the API is not ready.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Self, cast
from uuid import uuid4

import httpx

from leasehold import wire
from leasehold.answers import (
    Applied,
    Available,
    Delivery,
    Event,
    ItemRequest,
    Lease,
    Page,
    Resource,
    Run,
    Runner,
    Token,
    User,
    Whoami,
    reached,
)
from leasehold.errors import Unavailable
from leasehold.following import OutputOfCommands

LONGEST_WAIT = timedelta(seconds=60)
"""The API holds an answer no longer."""

SLOWEST_TICK = timedelta(seconds=5)
"""`watch` looks at least this often, unless asked for longer waits."""

_WAIT_SLACK = timedelta(seconds=15)


class Client(OutputOfCommands):
    """Talks to one Leasehold API. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout: timedelta = timedelta(seconds=30),
        patience: timedelta = timedelta(seconds=5),
        auth: httpx.Auth | None = None,
    ) -> None:
        """`timeout` bounds one answer, `patience` the repetitions of one call. Raises `Invalid` for a bad URL.

        `auth` says who is calling instead of a token: `leasehold.munge.MungeAuth`.
        """
        self.url = url.rstrip("/")
        self._wire = wire.Wire(self.url, token, auth=auth, transport=transport, timeout=timeout, patience=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    # Leases.

    def submit(
        self,
        items: Sequence[ItemRequest],
        *,
        duration: str | None = None,
        priority: int | None = None,
        description: str | None = None,
        cc: Sequence[str] = (),
        heartbeat: str | None = None,
        start_at: str | None = None,
        queue_timeout: str | None = None,
        wait_for_supply: bool = False,
        notify: Sequence[str] | Literal[False] = (),
        share_key: str | None = None,
        params: Mapping[str, Any] | None = None,
        command: Mapping[str, Any] | None = None,
        labels: Sequence[str] = (),
        on_end: str | None = None,
        on_end_reason: str | None = None,
        secrets: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        wait: str | None = None,
        timeout: timedelta | None = None,
    ) -> Lease:
        """Ask for a lease; with `wait` ("active" or "ended") hold the answer until then, or until `timeout` (≤ 60 s).

        The same `idempotency_key` never makes a second lease; without one, each call has its own. With `heartbeat` (a
        duration) the lease is lost when no `heartbeat` comes for so long, beginning with this call. With `start_at` (a
        time) it is a reservation; with `queue_timeout` (a duration) it fails when it has waited so long. `notify` names
        who else is told what happens to it; False: no person is. What the caller gave back under the same `share_key`
        it may be given again. `params` are those of items that do not say their own. `command` is run, on a runner with
        all these `labels`, once the lease is active, which ends with it; what becomes of its resources then is
        `on_end`, `free` or `offline`. `secrets`, names with their values, reach its hooks and its
        command, and nobody else.
        """
        body = _request(
            items,
            duration=duration,
            priority=priority,
            description=description,
            cc=list(cc) or None,
            heartbeat=heartbeat,
            start_at=start_at,
            queue_timeout=queue_timeout,
            wait_for_supply=wait_for_supply or None,
            notify=_notify(notify),
            share_key=share_key,
            params=params,
            command=command,
            labels=list(labels) or None,
            on_end=on_end,
            on_end_reason=on_end_reason,
            secrets=secrets,
        )
        return cast(
            Lease,
            self._wire.call(
                "POST",
                "leases",
                json=body,
                params=_waiting(wait, timeout),
                key=idempotency_key or uuid4().hex,
                held=_held(wait, timeout),
            ),
        )

    def try_submit(
        self,
        items: Sequence[ItemRequest],
        *,
        cc: Sequence[str] = (),
        wait_for_supply: bool = False,
        notify: Sequence[str] | Literal[False] = (),
        **asked: Any,
    ) -> Lease:
        """Say what would come of the same request to `submit`, without making it: the lease has no id and no number."""
        told = {"cc": list(cc) or None, "notify": _notify(notify)}
        body = _request(items, wait_for_supply=wait_for_supply or None, **told, **asked)
        params = [("dry_run", "true")]
        return cast(Lease, self._wire.call("POST", "leases", json=body, params=params, repeatable=True))

    def lease(self, ref: str, *, wait: str | None = None, timeout: timedelta | None = None) -> Lease:
        """One lease, by id or number, now or (with `wait`) when the state is reached, at `timeout` at the latest."""
        params, held = _waiting(wait, timeout), _held(wait, timeout)
        return cast(Lease, self._wire.call("GET", "leases", ref, params=params, held=held))

    def watch(
        self, ref: str, state: str, *, timeout: timedelta | None = None, tick: timedelta = LONGEST_WAIT
    ) -> Iterator[Lease]:
        """Yield the lease again and again until `state` ("active" or "ended") is reached, it ended, or `timeout`.

        The waits between begin with `tick` and grow while nothing changes. A restart of the API is sat out.
        """
        end = None if timeout is None else time.monotonic() + timeout.total_seconds()
        pause, seen = tick, None
        away_since: float | None = None
        while True:
            left = pause if end is None else min(pause, timedelta(seconds=max(0.0, end - time.monotonic())))
            try:
                lease = self.lease(ref, wait=state, timeout=left)
            except Unavailable:
                now = time.monotonic()
                # Not since the last answer: this machine may have slept meanwhile.
                away_since = now if away_since is None else away_since
                too_long = now - away_since > self.outage.total_seconds()
                if not self._wire.was_heard or too_long or (end is not None and now >= end):
                    raise
                time.sleep(1)
                continue
            away_since = None
            yield lease
            if reached(lease, state) or (end is not None and time.monotonic() >= end):
                return
            pause = tick if lease != seen else min(pause * 2, max(tick, SLOWEST_TICK))
            seen = lease

    def wait_for(self, ref: str, state: str, timeout: timedelta | None = None) -> Lease:
        """Wait until `state` is reached, the lease has ended, or `timeout`, and return it as it is then."""
        *_, lease = self.watch(ref, state, timeout=timeout)
        return lease

    def lease_page(self, *, limit: int = 100, cursor: str | None = None, **filters: str | None) -> Page[Lease]:
        """One page of leases; `filters` are `state` (several with commas), `owner`, `pool`, `resource` (POOL/NAME)."""
        params = _present({**filters, "limit": str(limit), "cursor": cursor})
        return cast(Page[Lease], self._wire.call("GET", "leases", params=params))

    def leases(self, *, commands: bool = False, **filters: str | None) -> Iterator[Lease]:
        """Every lease that the filters let through; with `commands` those that have one.

        Of these: `command` is its whole line, `command_like` a part of it, `folder` where it runs.
        """
        return self._pages("leases", params=[*([("commands", "true")] if commands else []), *_present(filters)])

    def extend(
        self, ref: str, *, by: str | None = None, until: str | None = None, idempotency_key: str | None = None
    ) -> Lease:
        """Extend an active lease: exactly one of `by` (a duration) and `until` (a time)."""
        body = {name: value for name, value in (("by", by), ("until", until)) if value is not None}
        key = idempotency_key or uuid4().hex
        return cast(Lease, self._wire.call("POST", "leases", ref, "extend", json=body, key=key))

    def heartbeat(self, ref: str) -> Lease:
        """Say that a lease is still wanted; raise `LeaseNotActive` where it is lost, or over."""
        return cast(Lease, self._wire.call("POST", "leases", ref, "heartbeat", repeatable=True))

    def add(self, ref: str, items: Sequence[ItemRequest], *, idempotency_key: str | None = None) -> Lease:
        """Give an active lease more resources, at once or not at all; they become `ready` while it goes on."""
        key = idempotency_key or uuid4().hex
        return cast(Lease, self._wire.call("POST", "leases", ref, "resources", json={"items": list(items)}, key=key))

    def give_back(self, ref: str, pool: str, name: str) -> Lease:
        """Give one of an active lease's resources back; one that was given back before stays so."""
        return cast(Lease, self._wire.call("DELETE", "leases", ref, "resources", pool, name, repeatable=True))

    def release(self, ref: str, reason: str | None = None) -> Lease:
        """Give a lease back; one that is not active yet is cancelled, one that has ended is left alone.

        The holder of a lease that somebody else gives back is told who did it, and the reason.
        """
        return self._end("release", ref, reason)

    def cancel(self, ref: str, reason: str | None = None) -> Lease:
        """Cancel a lease in any state; one that has ended is left alone. A holder is told as by `release`."""
        return self._end("cancel", ref, reason)

    def _end(self, how: str, ref: str, reason: str | None) -> Lease:
        body = None if reason is None else {"reason": reason}
        return cast(Lease, self._wire.call("POST", "leases", ref, how, json=body, repeatable=True))

    def transfer(self, ref: str, owner: str) -> Lease:
        """Give a lease to another owner; `token` in the answer takes the place of the one that it had."""
        return cast(Lease, self._wire.call("POST", "leases", ref, "transfer", json={"owner": owner}))

    def delivery(self, ref: str) -> Delivery:
        """The access data of an active lease."""
        return cast(Delivery, self._wire.call("GET", "leases", ref, "delivery"))

    def events(self, ref: str) -> Iterator[Event]:
        """What happened to a lease, oldest first."""
        return self._pages("leases", ref, "events")

    def runs(self, ref: str) -> Iterator[Run]:
        """The runs of hooks for a lease, in the order in which they began."""
        return self._pages("leases", ref, "runs")

    def log(
        self,
        ref: str,
        *,
        follow: bool = False,
        run: int | None = None,
        stage: str | None = None,
        resource: str | None = None,
        attempt: int | None = None,
        tail: int | None = None,
    ) -> Iterator[bytes]:
        """What its stages printed, piece by piece; with `follow` until the lease has ended, or the one `run`.

        `resource` is NAME or POOL/NAME; `tail` is how many of the last lines, all if None.
        """
        part = {"stage": stage, "resource": resource, **_texts({"run": run, "attempt": attempt, "tail": tail})}
        return self._log("leases", ref, follow=follow, part=part)

    # Pools.

    def pools(self) -> Iterator[dict[str, Any]]:
        """Every pool."""
        return self._pages("pools")

    def pool(self, name: str) -> dict[str, Any]:
        """One pool, with its stages and policy."""
        return cast(dict[str, Any], self._wire.call("GET", "pools", name))

    def pool_queue(self, name: str) -> Iterator[dict[str, Any]]:
        """The leases that wait for a pool, the next one first."""
        return self._pages("pools", name, "queue")

    def put_pool(self, name: str, pool: Mapping[str, Any], *, folder: str | None = None) -> Applied:
        """Make or change a pool; `folder` (absolute) is where its hooks start."""
        return cast(Applied, self._wire.call("PUT", "pools", name, json=pool, params=_present({"folder": folder})))

    def delete_pool(self, name: str) -> Applied:
        """Let a pool lend nothing any more, and delete it with the last of its resources."""
        return cast(Applied, self._wire.call("DELETE", "pools", name))

    def pool_log(
        self, name: str, *, follow: bool = False, stage: str | None = None, tail: int | None = None
    ) -> Iterator[bytes]:
        """What hooks printed in a pool while no lease was involved; with `follow` until the pool is gone."""
        return self._log("pools", name, follow=follow, part={"stage": stage, **_texts({"tail": tail})})

    def pause(self, name: str, reason: str, *, drain: bool = False) -> dict[str, Any]:
        """Let a pool lend nothing for now; with `drain` what it has made is deleted as soon as nobody has it."""
        body = {"reason": reason, **({"drain": True} if drain else {})}
        return cast(dict[str, Any], self._wire.call("POST", "pools", name, "pause", json=body))

    def resume(self, name: str) -> dict[str, Any]:
        """Let a paused pool lend again."""
        return cast(dict[str, Any], self._wire.call("POST", "pools", name, "resume"))

    def self_service(self) -> Iterator[dict[str, Any]]:
        """How self-service stands, of the lab first (`pool` None), then of each pool."""
        return self._pages("self-service")

    def force_self_service(self, opening: str, reason: str, pool: str | None = None) -> dict[str, Any]:
        """Open self-service (`on`) of a pool or of the lab, close it (`off`), or leave it to its rules (`auto`)."""
        where = ("self-service",) if pool is None else ("pools", pool, "self-service")
        body = {"opening": opening, "reason": reason}
        return cast(dict[str, Any], self._wire.call("POST", *where, json=body))

    def apply(
        self, file: str | bytes | Mapping[str, Any], *, folder: str | None = None, dry_run: bool = False
    ) -> Applied:
        """Apply a pools file, as YAML text or as a mapping; `folder` (absolute) is where its hooks start."""
        params = _present({"dry_run": str(dry_run).lower(), "folder": folder})
        if isinstance(file, Mapping):
            return cast(Applied, self._wire.call("POST", "apply", params=params, json=file))
        content = file.encode() if isinstance(file, str) else file
        return cast(Applied, self._wire.call("POST", "apply", params=params, yaml=content))

    def runners(self) -> Iterator[Runner]:
        """The runners of commands, also those of which nothing is heard now."""
        return self._pages("runners")

    # Resources.

    def available(
        self,
        pool: str | None = None,
        *,
        count: int = 1,
        match: Iterable[str] = (),
        tags: Sequence[str] = (),
        limit: int | None = None,
        duration: str | None = None,
    ) -> Available:
        """What a request for `count` resources could get now, for a duration or as long as is usual, or why not."""
        numbers = _texts({"count": count, "limit": limit})
        plain = _present({"pool": pool, "duration": duration, **numbers})
        return cast(Available, self._wire.call("GET", "available", params=plain + wire.filters(match, tags)))

    def resources(
        self,
        *,
        pool: str | None = None,
        state: str | None = None,
        match: Iterable[str] = (),
        tags: Sequence[str] = (),
    ) -> Iterator[Resource]:
        """Every resource that the filters let through."""
        return self._pages("resources", params=_present({"pool": pool, "state": state}) + wire.filters(match, tags))

    def resource(self, pool: str, name: str) -> Resource:
        """One resource."""
        return cast(Resource, self._wire.call("GET", "pools", pool, "resources", name))

    def resource_events(self, pool: str, name: str, last: int) -> list[Event]:
        """The last things that happened to a resource (1000 at most), oldest first."""
        return cast(list[Event], self._last(last, "pools", pool, "resources", name, "events"))

    def resource_runs(self, pool: str, name: str, last: int) -> list[Run]:
        """The last runs of hooks on a resource (1000 at most), oldest first."""
        return cast(list[Run], self._last(last, "pools", pool, "resources", name, "runs"))

    def resource_log(
        self,
        pool: str,
        name: str,
        *,
        follow: bool = False,
        run: int | None = None,
        stage: str | None = None,
        attempt: int | None = None,
        tail: int | None = None,
    ) -> Iterator[bytes]:
        """What hooks printed on a resource while no lease was involved; with `follow` until it is gone, or the run."""
        part = {"stage": stage, **_texts({"run": run, "attempt": attempt, "tail": tail})}
        return self._log("pools", pool, "resources", name, follow=follow, part=part)

    def put_resource(
        self, pool: str, name: str, *, tags: Sequence[str] = (), properties: Mapping[str, Any] | None = None
    ) -> Applied:
        """Register a static resource, or replace its tags and properties."""
        body = {"tags": list(tags), "properties": dict(properties or {})}
        return cast(Applied, self._wire.call("PUT", "pools", pool, "resources", name, json=body))

    def delete_resource(self, pool: str, name: str) -> Applied:
        """Take a resource out of its pool; one that is leased goes when it is released."""
        return cast(Applied, self._wire.call("DELETE", "pools", pool, "resources", name))

    def offline(self, pool: str, name: str, reason: str) -> Resource:
        """Keep a resource from new leases."""
        body = {"reason": reason}
        return cast(Resource, self._wire.call("POST", "pools", pool, "resources", name, "offline", json=body))

    def online(self, pool: str, name: str) -> Resource:
        """Allow new leases again."""
        return cast(Resource, self._wire.call("POST", "pools", pool, "resources", name, "online"))

    def repair(self, pool: str, name: str) -> Resource:
        """Put a broken resource through its cleaning again."""
        return cast(Resource, self._wire.call("POST", "pools", pool, "resources", name, "repair"))

    # Tokens.

    def create_token(
        self,
        *,
        user: str | None = None,
        role: str | None = None,
        expires: str | None = None,
        pools: Sequence[str] = (),
        read_only: bool = False,
        label: str | None = None,
    ) -> Token:
        """Make a token, by default one of the caller's own; its string, a secret, is in `token`, this once."""
        scopes = {"pools": list(pools) or None, "read": read_only}
        fields = {"user": user, "role": role, "expires": expires, "label": label}
        body = {"scopes": scopes, **{name: value for name, value in fields.items() if value is not None}}
        return cast(Token, self._wire.call("POST", "tokens", json=body))

    def tokens(self, user: str | None = None) -> Iterator[Token]:
        """Every token that the caller may see, newest first, also those that expired or were revoked."""
        return self._pages("tokens", params=_present({"user": user}))

    def token(self, token: str) -> Token:
        """One token, by its id."""
        return cast(Token, self._wire.call("GET", "tokens", token))

    def revoke_token(self, token: str) -> Token:
        """Make a token good for nothing; one that was revoked stays as it is."""
        return cast(Token, self._wire.call("DELETE", "tokens", token, repeatable=True))

    def whoami(self) -> Whoami:
        """Who the caller is to the API."""
        return cast(Whoami, self._wire.call("GET", "whoami"))

    # Users with passwords.

    def create_user(self, name: str, password: str, role: str | None = None) -> User:
        """Make a user who logs in with a password."""
        body = {"name": name, "password": password, **({} if role is None else {"role": role})}
        return cast(User, self._wire.call("POST", "users", json=body))

    def users(self) -> Iterator[User]:
        """All users, by name."""
        return self._pages("users")

    def user(self, name: str) -> User:
        """One user."""
        return cast(User, self._wire.call("GET", "users", name))

    def set_password(self, name: str, password: str) -> User:
        """Change a user's password; what the old one opened is revoked."""
        return cast(User, self._wire.call("POST", "users", name, "password", json={"password": password}))

    def disable_user(self, name: str) -> User:
        """Let a user log in no more, and revoke all tokens of this user."""
        return cast(User, self._wire.call("POST", "users", name, "disable", repeatable=True))

    def enable_user(self, name: str) -> User:
        """Let a user log in again."""
        return cast(User, self._wire.call("POST", "users", name, "enable", repeatable=True))

    def remove_user(self, name: str) -> User:
        """Forget a user, and revoke all tokens of this user."""
        return cast(User, self._wire.call("DELETE", "users", name))

    def health(self) -> dict[str, Any]:
        """Whether the API is alive."""
        return cast(dict[str, Any], self._wire.call("GET", "healthz", version=""))

    def _log(self, *path: str, follow: bool, part: Mapping[str, str | None]) -> Iterator[bytes]:
        params = [*_present(part), *([("follow", "true")] if follow else [])]
        return self._wire.stream(*path, "log", params=params, endless=follow)

    def _last(self, last: int, *path: str) -> list[Any]:
        page = self._wire.call("GET", *path, params=[("order", "desc"), ("limit", str(last))])
        items: list[Any] = page["items"]
        return items[::-1]

    def readiness(self) -> dict[str, Any]:
        """Whether the service can work, what of it is missing, and the alerts that stand."""
        return cast(dict[str, Any], self._wire.call("GET", "readyz", version="", answers=(503,)))

    def reconcile(
        self, *, dry_run: bool = False, accept_identity: bool = False, accept_lost: bool = False
    ) -> dict[str, Any]:
        """Rebuild the records from what runs; where the answer is not `done`, ask for its `run`."""
        return cast(
            dict[str, Any],
            self._wire.call(
                "POST",
                "reconcile",
                json={"accept_identity": accept_identity, "accept_lost": accept_lost},
                params=[("dry_run", str(dry_run).lower())],
                repeatable=True,
                held=_WAIT_SLACK + LONGEST_WAIT,
            ),
        )

    def reconciliation(self, run: str) -> dict[str, Any]:
        """What a reconciliation did, held until it is done or for a while."""
        return cast(dict[str, Any], self._wire.call("GET", "reconcile", run, held=_WAIT_SLACK + LONGEST_WAIT))

    def _pages(self, *path: str, params: wire.Params = ()) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            more = [] if cursor is None else [("cursor", cursor)]
            page = self._wire.call("GET", *path, params=[*params, *more])
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return


def _request(items: Sequence[ItemRequest], **fields: Any) -> dict[str, Any]:
    """The body of a request, without what is not said."""
    return {"items": list(items), **{name: value for name, value in fields.items() if value is not None}}


def _notify(notify: Sequence[str] | Literal[False]) -> list[str] | bool | None:
    return False if notify is False else list(notify) or None


def _texts(numbers: Mapping[str, int | None]) -> dict[str, str | None]:
    return {name: None if number is None else str(number) for name, number in numbers.items()}


def _present(fields: Mapping[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in fields.items() if value is not None]


def _waiting(wait: str | None, timeout: timedelta | None) -> list[tuple[str, str]]:
    return [] if wait is None else [("wait", wait), ("timeout", str(_seconds(timeout)))]


def _held(wait: str | None, timeout: timedelta | None) -> timedelta | None:
    return None if wait is None else timedelta(seconds=_seconds(timeout)) + _WAIT_SLACK


def _seconds(timeout: timedelta | None) -> int:
    """Whole seconds that the API is asked to hold its answer."""
    return math.ceil(min(LONGEST_WAIT if timeout is None else timeout, LONGEST_WAIT).total_seconds())
