"""Which API to talk to, and as whom: `LEASEHOLD_URL`, `LEASEHOLD_TOKEN`, or the embedded stack on this machine."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leasehold.client import Client


def connect(
    patience: timedelta = timedelta(seconds=3), timeout: timedelta = timedelta(seconds=30), url: str | None = None
) -> Client:
    """Return a client for the API at `url`, or for the one that the environment names.

    `patience` bounds the repetitions of a call, `timeout` the time that one answer may take.
    """
    # Imported here: it takes most of the start-up time, and neither --help nor completion needs it.
    from leasehold.client import Client

    url = url or api_url()
    return Client(url, _token(url), patience=patience, timeout=timeout)


def api_url() -> str:
    """`LEASEHOLD_URL`, else the embedded stack's address."""
    return os.environ.get("LEASEHOLD_URL") or f"http://127.0.0.1:{os.environ.get('LEASEHOLD_API_PORT') or 8700}"


def _token(url: str) -> str | None:
    """`LEASEHOLD_TOKEN`, else the embedded stack's admin token, which no other machine is ever shown."""
    from leasehold.wire import is_loopback

    if token := os.environ.get("LEASEHOLD_TOKEN"):
        return token.strip()
    try:
        return (_data_folder() / "admin-token").read_text().strip() if is_loopback(url) else None
    except (OSError, UnicodeDecodeError):
        return None


def _data_folder() -> Path:
    return Path(os.environ.get("LEASEHOLD_DATA") or "data")
