"""The application: routes, errors and limits around the services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from api import errors
from api.compat.quads import routes as quads
from api.compat.quads import session
from api.compat.quads.slashes import Slashes
from api.limits import Limits
from api.routes import health, inventory, leases, metrics, output, reconcile, runners, story, tokens, users
from api.schemas import ProblemAnswer
from api.services import Services
from api.stopping import Stopping
from leasehold import __version__
from leasehold.config import PoolsFile

_ROUTERS = (
    leases.router,
    story.router,
    output.router,
    runners.router,
    inventory.router,
    tokens.router,
    users.router,
    reconcile.router,
    metrics.router,
    health.router,
    session.login,
    session.logout,
    quads.router,
)


def create_app(services: Services) -> FastAPI:
    """The HTTP API over these services."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await services.news.close()
        await services.tokens.close()
        await services.log_news.close()

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
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_middleware(Limits)
    app.add_middleware(Stopping)
    app.add_middleware(Slashes)
    for router in _ROUTERS:
        app.include_router(router)
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the schemas that it does not find by itself: errors, and the pools file."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document["components"]["schemas"]
        for model in (ProblemAnswer, PoolsFile):
            schema = model.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
    return app.openapi_schema or {}
