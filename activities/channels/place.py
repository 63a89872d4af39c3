"""Where a channel leads: its URL, which is a secret, from a file or the environment of this worker."""

from __future__ import annotations

import os

from leasehold.channels import Channel
from leasehold.ports import NotSent

LONGEST = 8192
"""In bytes, of a URL."""


def url_of(channel: Channel) -> str:
    """The URL of a channel; raises `NotSent`, which names the file or variable, and nothing of what is in it."""
    if channel.url_env is not None:
        found = os.environ.get(channel.url_env, "")
        where = f"the variable {channel.url_env} of this worker"
    else:
        found, where = _read(channel.url_file or ""), f"the file {channel.url_file}"
    url = found.strip()
    if not url:
        raise NotSent(f"{where} has no URL")
    if not url.isprintable() or "://" not in url:
        raise NotSent(f"{where} has no URL of one line")
    return url


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(LONGEST).decode()
    except OSError as error:
        raise NotSent(f"the file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NotSent(f"the file {path} is no text") from None
