"""`python -m api`: one process of the HTTP API."""

from __future__ import annotations

from api import serving
from api.app import create_app
from api.auth import Tokens
from api.compat.quads.naming import Naming
from api.compat.resalloc.endpoint import Endpoint
from api.compat.resalloc.tickets import Terms
from api.gateway import Gateway
from api.logins import Logins
from api.munge import Munge
from api.render import Leases
from api.services import Services
from api.serving import Server
from api.waiting import News
from leasehold import process
from leasehold.secretfile import secret_file
from leasehold.settings import Settings
from leasehold.store.logs import SqlLogStore
from leasehold.store.migrate import checked
from leasehold.store.store import SqlStore
from leasehold.store.tokens import SqlTokens
from leasehold.store.users import SqlUsers
from leasehold.temporal import TASK_QUEUE, connect


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    client = await connect(settings, "api", lazy=True)
    store, logs = SqlStore(settings.main_url), SqlLogStore(settings.log_url)
    key = settings.secret_key or secret_file(settings.folder / "secret-key")
    tokens = Tokens(
        key.encode(),
        secret_file(settings.folder / "admin-token"),
        SqlTokens(store.database),
        runner_token=secret_file(settings.folder / "runner-token"),
    )
    users = SqlUsers(store.database)
    services = Services(
        store=store,
        logs=logs,
        gateway=Gateway(client, TASK_QUEUE),
        tokens=tokens,
        leases=Leases(settings.temporal_ui, client.namespace),
        news=News(store),
        log_news=News(logs),
        logins=Logins(users, tokens),
        quads=Naming(clouds=settings.quads_clouds, vlans=settings.quads_vlans, spare=settings.quads_spare),
        munge=Munge(settings.munge_role, users, settings.munge_socket) if settings.munge_role else None,
    )
    resalloc = Endpoint(services, Terms(lifetime=settings.resalloc_lifetime, heartbeat=settings.resalloc_heartbeat))
    servers = [Server(create_app(services), settings.api_host, settings.api_port)]
    if settings.resalloc_port is not None:
        servers.append(resalloc.server(settings.api_host, settings.resalloc_port))
    try:
        await serving.run(servers)
    finally:
        await resalloc.finish(serving.GRACE_S)
        store.close()
        logs.close()


if __name__ == "__main__":
    process.run(lambda: serve(checked(Settings())))
