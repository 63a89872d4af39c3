"""Mail: one message to one address, by the server that a URL names.

`smtp://[user:password@]host[:port]?from=ADDRESS`, with STARTTLS where the server offers it; `tls=required` or `tls=no`
say otherwise. `smtps://` is TLS from the beginning. `to=` is the address where the channel writes to no people.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib

from leasehold.channels import domain_of
from leasehold.letters import Text, one_line
from leasehold.ports import NotSent, Writing

SCHEMES = frozenset({"smtp", "smtps"})

TIMEOUT_S = 20.0
"""For each answer of the server."""

_TLS = {"required": True, "no": False}
_LONGEST_REPLY = 300

# It would log the server's replies to a login, among others.
logging.getLogger("aiosmtplib").setLevel(logging.WARNING)


@dataclass(frozen=True, kw_only=True)
class _Server:
    host: str
    port: int | None
    user: str | None
    password: str | None
    tls: bool
    start_tls: bool | None
    sender: str
    to: str | None


async def send(url: str, writing: Writing, text: Text) -> None:
    """Send a letter; raises `NotSent`, final where the server refuses the address or the message for good."""
    server = _server(url)
    to = writing.letter.to or server.to
    if to is None or domain_of(to) is None:
        raise NotSent("the channel writes to no people, and its URL has no to=ADDRESS")
    try:
        message = message_of(writing, text, sender=server.sender, to=to)
    except (HeaderParseError, ValueError) as error:
        raise NotSent(f"this is no letter that can be written ({type(error).__name__})", is_final=True) from None
    try:
        await aiosmtplib.send(
            message,
            sender=server.sender,
            recipients=[to],
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls,
            start_tls=server.start_tls,
            timeout=TIMEOUT_S,
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        raise _refused(error.recipients[0]) from None
    except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as error:
        raise _refused(error) from None
    except aiosmtplib.SMTPResponseException as error:
        # Not about this letter: an operator can put it right. What it says may quote the login.
        raise NotSent(f"the mail server refuses this service ({error.code})") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise NotSent(f"the mail server cannot be used ({type(error).__name__})") from None


def message_of(writing: Writing, text: Text, *, sender: str, to: str) -> EmailMessage:
    """A letter as mail. Sent again it has the same Message-ID, by which mailboxes know it."""
    domain = domain_of(sender)
    message = EmailMessage(policy=SMTP)
    message["Subject"] = f"[leasehold] {text.subject}"
    message["From"] = Address("Leasehold", addr_spec=sender)
    message["To"] = Address(addr_spec=to)
    message["Date"] = format_datetime(writing.notice.at)
    once = hashlib.sha256(f"{writing.notice.id}\0{writing.letter.channel}\0{to}".encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{once}@{domain}>"
    # Mails about one lease stand together.
    message["References"] = f"<{writing.lease.id}@{domain}>"
    # RFC 3834: no automatic answer to this.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.body, cte="quoted-printable")
    return message


def _refused(error: aiosmtplib.SMTPResponseException) -> NotSent:
    """What is refused with 5xx is refused for good (RFC 5321, 4.2.1)."""
    said = one_line(error.message, _LONGEST_REPLY)
    return NotSent(f"the mail server answered {error.code} {said}", is_final=500 <= error.code < 600)


def _server(url: str) -> _Server:
    """Read a URL; raises `NotSent`, which quotes nothing of it."""
    try:
        parts = urlsplit(url)
        asked: Mapping[str, str] = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        port = parts.port
    except ValueError:
        raise NotSent("the channel's URL cannot be read") from None
    sender, tls = asked.get("from", ""), asked.get("tls")
    if parts.hostname is None or domain_of(sender) is None or not asked.keys() <= {"from", "to", "tls"}:
        raise NotSent("the channel's URL must be smtp://host?from=ADDRESS, and may have a user, a port, to and tls")
    if tls not in {None, *_TLS} or (tls is not None and parts.scheme == "smtps"):
        raise NotSent("tls in the channel's URL is required or no, and not with smtps")
    user = unquote(parts.username) if parts.username else None
    # A password never goes over the network as it is, unless the URL says so.
    start_tls = _TLS[tls] if tls is not None else (True if user else None)
    return _Server(
        host=parts.hostname,
        port=port,
        user=user,
        password=unquote(parts.password) if parts.password else None,
        tls=parts.scheme == "smtps",
        start_tls=None if parts.scheme == "smtps" else start_tls,
        sender=sender,
        to=asked.get("to"),
    )
