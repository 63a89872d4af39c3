"""Chat and webhooks: whatever Apprise knows, by its own URLs; the list is in its documentation.

Its words about a failure may quote a URL, which is a secret: they are kept from the log, and only a status is taken.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

from leasehold.letters import Text
from leasehold.ports import NotSent

if TYPE_CHECKING:
    from apprise import Apprise

TIMEOUT_S = 30.0

# Names in the text must not become mentions that wake everybody in a room.
_NO_MENTIONS = {ord("@"): "@\u200b", ord("<"): "<\u200b"}
_STATUS = re.compile(r"error=(\d{3})\b")

logging.getLogger("apprise").propagate = False


async def send(url: str, text: Text) -> None:
    """Post a letter; raises `NotSent`."""
    await asyncio.to_thread(_send, url, text)


def _send(url: str, text: Text) -> None:
    # It takes tens of megabytes, which only those have to spend who use it.
    from apprise import NotifyFormat
    from apprise.exception import AppriseException

    post, is_webhook = _service(url, text)
    subject, body = (said if is_webhook else said.translate(_NO_MENTIONS) for said in (text.subject, text.body))
    try:
        result = post.notify(body=body, title=subject, body_format=NotifyFormat.TEXT, timeout=TIMEOUT_S)
    except (AppriseException, OSError, ValueError) as error:
        raise NotSent(f"the channel cannot be used ({type(error).__name__})") from None
    if not result:
        said = " ".join(entry.message for entry in result.logs())
        status = _STATUS.search(said)
        raise NotSent(f"the channel answered {status[1]}" if status else "the channel does not answer, or refuses")


def _service(url: str, text: Text) -> tuple[Apprise, bool]:
    """Apprise with the one service of a URL, and whether that is a webhook for programs."""
    from apprise import Apprise, AppriseAsset
    from apprise.plugins.custom_form import NotifyForm
    from apprise.plugins.custom_json import NotifyJSON
    from apprise.plugins.custom_xml import NotifyXML

    # A redirect could lead anywhere, and would lose what is posted.
    asset = AppriseAsset(app_id="Leasehold", app_desc="Leases of test resources", app_url="", http_redirects=False)
    service = Apprise.instantiate(url, asset=asset)
    if service is None:
        raise NotSent("the channel's URL is none that is known")
    is_webhook = isinstance(service, NotifyJSON | NotifyForm | NotifyXML)
    if isinstance(service, NotifyJSON | NotifyForm | NotifyXML):
        service.payload_extras.update(text.facts)
    post = Apprise(asset=asset)
    post.add(service)
    return post, is_webhook
