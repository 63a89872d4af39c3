"""Which servers' certificates a hook trusts."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

from activities.drivers.request import CannotStart


def tls_context(verify: bool | str, folder: Path) -> ssl.SSLContext:
    """What `verify` of a hook means: this machine's certificates, none checked, or a file's. Raises `CannotStart`."""
    if verify is True:
        return _of_this_machine()
    if verify is False:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=folder / verify)
    except ssl.SSLError:
        raise CannotStart(f"verify: {verify}: there is no certificate in it") from None
    except OSError as error:
        raise CannotStart(f"verify: {verify}: {error.strerror}") from None


@lru_cache(maxsize=1)
def _of_this_machine() -> ssl.SSLContext:
    # Reading all of a machine's certificates takes tens of milliseconds.
    return ssl.create_default_context()
