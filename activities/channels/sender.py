"""Sends letters: mail by itself, all else through Apprise."""

from __future__ import annotations

from activities.channels import chat, mail
from activities.channels.place import url_of
from leasehold.letters import write
from leasehold.links import Links
from leasehold.ports import NotSent, Writing


class ChannelSender:
    """Writes letters and sends them (`leasehold.ports.Sender`)."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def send(self, writing: Writing) -> None:
        """Send a letter over its channel, whose URL is read each time: it may have been put right."""
        url = url_of(writing.channel)
        text = write(writing, self._links)
        if url.partition("://")[0].lower() in mail.SCHEMES:
            await mail.send(url, writing, text)
        elif writing.letter.to is not None:
            raise NotSent(
                "the channel has people, who are written to by mail alone: its URL must be smtp:// or smtps://"
            )
        else:
            await chat.send(url, text)
