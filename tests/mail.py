"""A real mail server for tests, on this machine, which refuses what it is told to, and can be made to hang."""

from __future__ import annotations

import email
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.stack import free_ports

Answer = Callable[[str], str | None]
"""What is answered to a recipient, or None where it is taken."""


class MailServer:
    """What came, and how it is answered. `on_mail` is called once a mail is taken, before that is said."""

    def __init__(self, *, login: tuple[str, str] | None = None) -> None:
        self.login = login
        self.mails: list[EmailMessage] = []
        self.tries: list[str] = []
        self.recipient: Answer = lambda address: None
        self.on_mail: Callable[[], None] = lambda: None
        self.hangs = threading.Event()
        self.asked = threading.Event()
        (self.port,) = free_ports(1)
        self._controller: Controller | None = None

    @property
    def url(self) -> str:
        """Its URL for a channel."""
        login = f"{self.login[0]}:{self.login[1]}@" if self.login else ""
        return f"smtp://{login}127.0.0.1:{self.port}?from=leasehold@example.com&tls=no"

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to an address."""
        return [mail for mail in self.mails if mail["To"] == address]

    def start(self) -> None:
        """Serve, on the same port as before."""
        options: dict[str, Any] = {}
        if self.login:
            options = {"authenticator": self._authenticate, "auth_required": True, "auth_require_tls": False}
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()

    def stop(self) -> None:
        """Serve no more."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == self.login, handled=True)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.tries.append(address)
        self.asked.set()
        if self.hangs.is_set():
            await server.loop.run_in_executor(None, self._until_it_goes_on)
        refused = self.recipient(address)
        if refused is not None:
            return refused
        envelope.rcpt_tos.append(address)
        return "250 OK"

    def _until_it_goes_on(self) -> None:
        while self.hangs.is_set():
            threading.Event().wait(0.05)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        self.on_mail()
        return "250 OK"


@contextmanager
def mail_server(*, login: tuple[str, str] | None = None) -> Iterator[MailServer]:
    """A mail server that serves, until the block ends."""
    server = MailServer(login=login)
    server.start()
    try:
        yield server
    finally:
        server.hangs.clear()
        server.stop()
