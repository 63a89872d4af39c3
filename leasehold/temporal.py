"""Connecting to Temporal, alike in every process of the service."""

from __future__ import annotations

import os

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import KeepAliveConfig

from leasehold.errors import Unavailable
from leasehold.messages import SubmitLease
from leasehold.settings import Settings
from leasehold.temporal_names import TASK_QUEUE, notice_queue, runner_queue, site_queue

__all__ = ["TASK_QUEUE", "connect", "notice_queue", "runner_queue", "site_queue"]

DEPLOYMENT = "leasehold"
"""What Temporal knows the workers by that were told their build."""


LIVELY = KeepAliveConfig(interval_millis=10_000, timeout_millis=5000)
"""For whoever must soon know that a connection is dead, which takes 45 s by default; servers bear no more often."""


async def connect(
    settings: Settings, identity: str, *, lazy: bool, alive: KeepAliveConfig = KeepAliveConfig.default
) -> Client:
    """A client by the SDK's own environment configuration (`TEMPORAL_ADDRESS`, TLS, API key).

    Without an address it is the embedded server's. A lazy client connects when it is used first. `alive` says how soon
    a dead connection is noticed.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", f"127.0.0.1:{settings.temporal_port}")
    return await Client.connect(**config, identity=f"{identity}-{os.getpid()}", lazy=lazy, keep_alive_config=alive)


async def submitted(client: Client, lease: str) -> SubmitLease:
    """With what a lease's workflow began, by its history. Raises `RPCError` if there is none."""
    handle = client.get_workflow_handle(lease)
    async for event in handle.fetch_history_events(page_size=1):
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            payloads = event.workflow_execution_started_event_attributes.input.payloads
            found: list[SubmitLease] = await client.data_converter.decode(payloads, [SubmitLease])
            return found[0]
    raise Unavailable("Temporal shows no history of the lease yet")
