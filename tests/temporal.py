"""Temporal's dev server for tests: in memory, otherwise as the Procfile runs it."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import string
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tests import servers

_ROOT = Path(__file__).parents[1]
_START_S = 60


@contextmanager
def server(**settings: str) -> Iterator[str]:
    """The address of a server that runs until the block ends, and is ready; `settings` are dynamic ones of its own."""
    own = _ROOT / ".tools" / "temporal"
    program = str(own) if own.exists() else shutil.which("temporal")
    if program is None:
        raise servers.ServerFailed("there is no Temporal server: make temporal")
    folder, port = Path(tempfile.mkdtemp(prefix="leasehold-temporal-")), servers.free_port()
    with servers.running([program, *_arguments(port), *_settings(settings)], folder=folder, stop="KILL") as server:
        asyncio.run(asyncio.wait_for(_ready(f"127.0.0.1:{port}", server), _START_S))
        yield f"127.0.0.1:{port}"


def _arguments(port: int) -> list[str]:
    """The Procfile's, without the database and the UI."""
    (line,) = [x for x in (_ROOT / "Procfile").read_text().splitlines() if x.startswith("temporal:")]
    filled = string.Template(line).safe_substitute(LEASEHOLD_TEMPORAL_PORT=str(port))
    words = shlex.split(filled.partition("exec temporal ")[2])
    for option in ("--db-filename", "--ui-port"):
        at = words.index(option)
        del words[at : at + 2]
    return [*words, "--headless"]


def _settings(values: Mapping[str, str]) -> list[str]:
    """`limit__historyCount="9"` as the server takes it."""
    return [
        word
        for name, value in values.items()
        for word in ("--dynamic-config-value", f"{name.replace('__', '.')}={value}")
    ]


async def _ready(address: str, server: servers.Server) -> None:
    """Return once the server has its namespace and the search attributes."""
    while True:
        server.check()
        try:
            client = await Client.connect(address)
            known = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=client.namespace)
            )
            if "LeaseExpires" in known.custom_attributes:
                return
        except (RuntimeError, RPCError):
            pass
        await asyncio.sleep(0.05)
