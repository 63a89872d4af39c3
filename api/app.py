"""The application: routes, errors and limits around the services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import errors
from api.limits import BodyLimit
from api.routes import health, inventory, leases
from api.services import Services
from leasehold import __version__


def create_app(services: Services) -> FastAPI:
    """The HTTP API over these services."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await services.news.close()

    app = FastAPI(
        title="Leasehold",
        version=__version__,
        description="Lends shared test resources to people and CI pipelines.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.services = services
    app.state.tokens = services.tokens
    errors.install(app)
    app.add_middleware(BodyLimit)
    for router in (leases.router, inventory.router, health.router):
        app.include_router(router)
    return app
