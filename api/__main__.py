"""`python -m api`: one process of the HTTP API."""

from __future__ import annotations

import uvicorn

from api.app import create_app
from api.auth import Tokens, secret_file
from api.compat.quads.naming import Naming
from api.gateway import Gateway
from api.logins import Logins
from api.render import Leases
from api.services import Services
from api.waiting import News
from leasehold import process
from leasehold.settings import Settings
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from leasehold.store.tokens import SqlTokens
from leasehold.store.users import SqlUsers
from leasehold.temporal import TASK_QUEUE, connect

GRACE_S = 3
KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep an idle connection: none is closed under a request that is on its way."""


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    client = await connect(settings, "api", lazy=True)
    store, logs = SqlStore(settings.main_url), SqlLogStore(settings.log_url)
    key = settings.secret_key or secret_file(settings.folder / "secret-key")
    tokens = Tokens(key.encode(), secret_file(settings.folder / "admin-token"), SqlTokens(store.database))
    app = create_app(
        Services(
            store=store,
            logs=logs,
            gateway=Gateway(client, TASK_QUEUE),
            tokens=tokens,
            leases=Leases(settings.temporal_ui, client.namespace),
            news=News(store),
            log_news=News(logs),
            logins=Logins(SqlUsers(store.database), tokens),
            quads=Naming(clouds=settings.quads_clouds, vlans=settings.quads_vlans, spare=settings.quads_spare),
        )
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.api_host,
            port=settings.api_port,
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )
    try:
        await server.serve()
    finally:
        store.close()
        logs.close()


if __name__ == "__main__":
    process.run(serve)
