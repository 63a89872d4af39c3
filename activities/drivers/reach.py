"""How to reach the BMC that a hook of the driver `redfish` names: its templates filled in, its secret read."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from activities.drivers import request as requests
from activities.drivers.request import CannotStart
from activities.drivers.trust import tls_context
from leasehold import templates
from leasehold.hook_fields import CALL
from leasehold.ports import HookCall
from leasehold.redfish_hook import NAMES, RedfishFile, SecretFile, address_url


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where a BMC is, who we are to it, and which of its systems is meant; None is its only one."""

    url: str
    user: str
    password: str
    system: str | None
    tls: ssl.SSLContext | None

    @property
    def host(self) -> str:
        """The BMC, as it is shown."""
        return urlsplit(self.url).netloc


def reach(wanted: RedfishFile, call: HookCall) -> Reach:
    """Fill in what the hook says. Blocks: it reads files, and templates may take a moment. Raises `CannotStart`."""
    folder = Path(call.folder or "/")
    values = requests.values_of(call)
    with templates.metered():
        url = requests.url("address", address_url(wanted.address), values, CALL).rstrip("/")
        if urlsplit(url).path or urlsplit(url).query:
            raise CannotStart("address: the address of a BMC has no path")
        user = _filled("user", wanted.user, values)
        if ":" in user:
            raise CannotStart("user: there is no colon in the name of a user")
        system = None if wanted.system is None else _filled("system", wanted.system, values)
        if system in ("", ".", ".."):
            raise CannotStart("system: this is no id")
        return Reach(
            url=url,
            user=user,
            password=_secret("password", wanted.password, folder, call.env),
            system=system,
            tls=tls_context(wanted.verify, folder) if url.startswith("https:") else None,
        )


def _filled(place: str, source: str, values: Mapping[str, Any]) -> str:
    return requests.filled(place, templates.text_template(source, CALL).render, values)


def _secret(place: str, secret: SecretFile, folder: Path, env: Mapping[str, str]) -> str:
    if secret.env is not None:
        found = os.environ.get(secret.env)
        if found is None:
            raise CannotStart(f"{place}.env: {secret.env} is not in the worker's environment")
        return found
    assert secret.file is not None
    # Names alone: whatever else people typed cannot lead to another file.
    names = {"resource": {"pool": env.get("LEASEHOLD_POOL"), "name": env.get("LEASEHOLD_RESOURCE") or None}}
    path = requests.filled(f"{place}.file", templates.text_template(secret.file, NAMES).render, names)
    return requests.read_text(f"{place}.file", path, folder)
