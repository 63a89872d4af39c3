"""Connecting to Temporal, alike in every process of the service."""

from __future__ import annotations

import os

from temporalio.client import Client
from temporalio.envconfig import ClientConfig

from leasehold.settings import Settings
from leasehold.temporal_names import TASK_QUEUE, site_queue

__all__ = ["TASK_QUEUE", "connect", "site_queue"]

DEPLOYMENT = "leasehold"
"""What Temporal knows the workers by that were told their build."""


async def connect(settings: Settings, identity: str, *, lazy: bool) -> Client:
    """A client by the SDK's own environment configuration (`TEMPORAL_ADDRESS`, TLS, API key).

    Without an address it is the embedded server's. A lazy client connects when it is used first.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", f"127.0.0.1:{settings.temporal_port}")
    return await Client.connect(**config, identity=f"{identity}-{os.getpid()}", lazy=lazy)
