"""What the routes work with, made once for each application."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request

from api.auth import Tokens
from api.compat.quads.naming import Naming
from api.gateway import Gateway
from api.logins import Logins
from api.munge import Munge
from api.render import Leases
from api.waiting import News
from leasehold.ports import LogStore, Store


@dataclass(frozen=True)
class Services:
    """The store, the log store, the way to Temporal, and what is made of them."""

    store: Store
    logs: LogStore
    gateway: Gateway
    tokens: Tokens
    leases: Leases
    news: News
    log_news: News
    logins: Logins
    quads: Naming
    munge: Munge | None = field(default=None, kw_only=True)


async def services(request: Request) -> Services:
    """The services of a request's application (a FastAPI dependency)."""
    found: Services = request.app.state.services
    return found
