"""Which API to talk to, and as whom.

`LEASEHOLD_URL`, `LEASEHOLD_TOKEN` or `LEASEHOLD_AUTH=munge` say so, or it is the embedded stack on this machine.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from leasehold.errors import Invalid

if TYPE_CHECKING:
    import httpx

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
    auth = _auth(url)
    return Client(url, None if auth else _token(url), auth=auth, patience=patience, timeout=timeout)


def api_url() -> str:
    """`LEASEHOLD_URL`, else the embedded stack's address."""
    return os.environ.get("LEASEHOLD_URL") or f"http://127.0.0.1:{os.environ.get('LEASEHOLD_API_PORT') or 8700}"


def _auth(url: str) -> httpx.Auth | None:
    """What `LEASEHOLD_AUTH` says to come with, None being a token; raise `Invalid` where it says anything else."""
    asked = os.environ.get("LEASEHOLD_AUTH") or "token"
    if asked == "token":
        return None
    if asked != "munge":
        raise Invalid(f"LEASEHOLD_AUTH={asked}: it may be token or munge")
    from leasehold.munge import MungeAuth

    return MungeAuth(url, os.environ.get("LEASEHOLD_MUNGE_SOCKET") or None)


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
