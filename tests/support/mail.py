"""A mail server for tests: it speaks as much SMTP as smtplib asks for, and keeps the mails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import Message


class MailServer:
    """The mails that have come, and where they are sent to."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.refusals = 0
        self.address = ("127.0.0.1", 0)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the mails of one connection."""
        writer.write(b"220 test\r\n")
        while line := await reader.readline():
            command = line[:4].upper().strip()
            if command == b"MAIL" and self.refusals:
                self.refusals -= 1
                writer.write(b"451 not now\r\n")
            elif command == b"DATA":
                writer.write(b"354 go on\r\n")
                mail = await reader.readuntil(b"\r\n.\r\n")
                self.mails.append(message_from_bytes(mail[:-5]))
                writer.write(b"250 kept\r\n")
            else:
                writer.write(b"221 bye\r\n" if command == b"QUIT" else b"250 yes\r\n")
            if command == b"QUIT":
                break
        writer.close()


@asynccontextmanager
async def mail_server() -> AsyncIterator[MailServer]:
    """A server on a free port."""
    mails = MailServer()
    server = await asyncio.start_server(mails.talk, "127.0.0.1", 0)
    mails.address = server.sockets[0].getsockname()
    async with server:
        yield mails
