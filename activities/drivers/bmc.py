"""One machine behind a BMC that speaks Redfish. The library for that, sushy, is used here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import sushy
from sushy import auth, connector, exceptions

from activities.drivers.carrier import Carrier, NotCarried
from activities.drivers.reach import Reach
from leasehold.redfish_hook import Device, Mode

BUSY = frozenset({429, 500, 502, 503, 504})
"""Statuses that say nothing about the machine: the BMC is busy or restarting."""

_LONGEST = 300
"""In characters, of what is told of an answer that lacks something: names of attributes, and paths."""

_SOURCES: dict[Device, sushy.BootSource] = {
    "pxe": sushy.BootSource.PXE,
    "http": sushy.BootSource.UEFI_HTTP,
    "disk": sushy.BootSource.HDD,
    "cd": sushy.BootSource.CD,
    "usb": sushy.BootSource.USB,
    "bios": sushy.BootSource.BIOS_SETUP,
}
_MODES: dict[Mode, sushy.BootSourceOverrideMode] = {
    "uefi": sushy.BootSourceOverrideMode.UEFI,
    "legacy": sushy.BootSourceOverrideMode.LEGACY,
}

# What it logs it also raises, and it logs answers as they come.
logging.getLogger("sushy").setLevel(logging.CRITICAL + 1)


class BmcError(Exception):
    """The BMC did not do it; says why, in words of our own. `said` are its words, which are not for everybody.

    `passing` tells that it may answer if it is asked again.
    """

    def __init__(self, why: str, *, status: int | None = None, said: str = "", passing: bool = False) -> None:
        super().__init__(why)
        self.status, self.said, self.passing = status, said, passing


class Bmc:
    """A machine, and what its BMC knows of it. Every method blocks its thread, and raises `BmcError`."""

    def __init__(self, found: Reach, carrier: Carrier) -> None:
        with _in_our_words():
            # Nothing stays behind that a hook which was stopped would have to log out of.
            login = auth.BasicAuth(found.user.encode(), found.password.encode())
            root = sushy.Sushy(found.url, auth=login, connector=_Connector(found.url, carrier))
            path = None
            if found.system is not None:
                path = f"{root.get_system_collection().path.rstrip('/')}/{quote(found.system, safe='')}"
            self._system = root.get_system(path)

    def power(self) -> str:
        """The state of its power, in Redfish's words: On, Off, PoweringOn, PoweringOff, Paused."""
        with _in_our_words():
            self._system.refresh()
            state = self._system.power_state
        if state is None:
            raise BmcError("the BMC does not tell the state of the power")
        return str(state.value)

    def reset(self, kind: str) -> None:
        """Have it do a reset of this kind, in Redfish's words: On, ForceOff, GracefulShutdown, ForceRestart…"""
        with _in_our_words():
            if sushy.ResetType(kind) not in (offered := self._system.get_allowed_reset_system_values()):
                raise BmcError(f"the BMC does not offer {kind}, only {_listed(offered)}")
            self._system.reset_system(sushy.ResetType(kind))

    def boot_once(self, device: Device, mode: Mode | None) -> None:
        """Choose what the next start is from, that one alone."""
        source = _SOURCES[device]
        with _in_our_words():
            if source not in (offered := self._system.get_allowed_system_boot_source_values()):
                raise BmcError(f"the BMC does not offer {source.value}, only {_listed(offered)}")
            self._system.set_system_boot_options(
                target=source,
                enabled=sushy.BootSourceOverrideEnabled.ONCE,
                mode=None if mode is None else _MODES[mode],
            )


class _Connector(connector.Connector):  # type: ignore[misc]
    """sushy's own, but for what carries its requests."""

    def __init__(self, url: str, carrier: Carrier) -> None:
        super().__init__(url)
        # No proxies or passwords of the worker's.
        self._session.trust_env = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, carrier)


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Turn every way in which the library can fail into `BmcError`."""
    try:
        yield
    except BmcError:
        raise
    except exceptions.ConnectionError as error:
        cause = error.__context__
        raise BmcError(str(cause) if isinstance(cause, NotCarried) else "no answer", passing=True) from None
    except exceptions.HTTPError as error:
        said = error.detail if isinstance(error.detail, str) else ""
        status = int(error.status_code)
        raise BmcError(_of_status(status), status=status, said=said, passing=status in BUSY) from None
    except exceptions.UnknownDefaultError:
        raise BmcError("the BMC has not exactly one system: say which with the key system") from None
    except (exceptions.MissingAttributeError, exceptions.MissingActionError) as error:
        raise BmcError(f"the BMC lacks what is needed: {error}"[:_LONGEST]) from None
    except exceptions.SushyError as error:
        raise BmcError(f"the BMC cannot do this ({type(error).__name__})") from None
    except Exception as error:
        # It can answer anything, and the library takes much of that for granted.
        raise BmcError(f"the BMC's answer is not what Redfish wants ({type(error).__name__})") from None


def _of_status(status: int) -> str:
    match status:
        case 401:
            return "the BMC refuses this user and password: 401"
        case 403:
            return "the BMC does not let this user do it: 403"
        case 404:
            return "the BMC knows no such thing: 404"
        case _:
            return f"the BMC answers {status}"


def _listed(values: set[sushy.ResetType] | set[sushy.BootSource]) -> str:
    return ", ".join(sorted(value.value for value in values))
