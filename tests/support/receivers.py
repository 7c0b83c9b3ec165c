"""Receivers of webhooks for tests: real servers, over http and https, whose answers a test chooses."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook as Verifier

from bbio.events import Event
from bbio.streams import Event as Logged


def event(method: str = "update", *, backend: str = "issues", offset: int = 42, **more: Any) -> Event[Any]:
    """An event of a log, as `Runtime.events` returns it."""
    logged = Logged(more.pop("stream", "c:home"), more.pop("epoch", "9a0c"), offset, method, b"{}", rev=19)
    model = {"id": 7, "title": "Müll"}
    return Event(method, model, "home", 19, logged, backend=backend)  # type: ignore[arg-type]


@attrs.define
class Posted:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        """What the body says."""
        return json.loads(self.body)

    def verify(self, secret: str) -> Any:
        """What the body says, if the package `standardwebhooks` takes its signature."""
        return Verifier(secret).verify(self.body, self.headers)


class Receiver:
    """A receiver whose answers a test chooses."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.status = 200
        # Statuses of the next answers, by the title of the model; then that of all.
        self.scripts: dict[str, list[int]] = {}
        self.headers: dict[str, str] = {}
        self.body = b"thank you"
        # Bodies without an end, and how many bytes of them were sent; answers that do not come before the end.
        self.endless: bytes | None = None
        self.sent = 0
        self.is_silent = False
        self.gone = asyncio.Event()
        self.clients: set[Any] = set()
        self.url = ""

    @property
    def host(self) -> str:
        """The host and port, as an allow-list has them."""
        return self.url.partition("//")[2].partition("/")[0]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.clients.add(request.transport and request.transport.get_extra_info("peername"))
        self.posted.append(Posted(request.path_qs, dict(request.headers), await request.read()))
        try:
            if self.is_silent:
                await asyncio.Event().wait()
            if self.endless is not None:
                response = web.StreamResponse(status=self.status, headers=self.headers)
                await response.prepare(request)
                while True:
                    await response.write(self.endless)
                    self.sent += len(self.endless)
                    await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        return web.Response(status=self._status(), headers=self.headers, body=self.body)

    def _status(self) -> int:
        model = self.posted[-1].message["data"].get("model") or {}
        script = self.scripts.get(model.get("title", ""), [])
        return script.pop(0) if script else self.status


@asynccontextmanager
async def receiver(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on a port of 127.0.0.1, over https with a context."""
    served = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", served.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    served.url = f"http{'s' if context else ''}://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield served
    finally:
        await runner.cleanup()


@cache
def certificate() -> tuple[bytes, bytes]:
    """A certificate of `localhost`, signed by itself, and its key; both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(serialization.Encoding.PEM, *private)


def server_context() -> ssl.SSLContext:
    """The context of a server with that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        path.write_bytes(b"".join(certificate()))
        context.load_cert_chain(path)
    return context


def client_context() -> ssl.SSLContext:
    """The context of a client that trusts that certificate alone."""
    return ssl.create_default_context(cadata=certificate()[0].decode())


class Names:
    """Stands for the look-up of names: each name leads where a test says, and may lead elsewhere the next time.

    Parameters:
        leads_to: the addresses of each name, one list for each time that it is looked up; the last one stays.
    """

    def __init__(self, **leads_to: list[list[str]]) -> None:
        self.leads_to = {name.replace("_", "."): each for name, each in leads_to.items()}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        """Look up a name, as the event loop does."""
        self.asked.append(host)
        times = self.leads_to[host]
        found = times.pop(0) if len(times) > 1 else times[0]
        entries = []
        for each in found:
            is_v6 = ipaddress.ip_address(each).version == 6
            address = (each, port, 0, 0) if is_v6 else (each, port)
            entries.append((socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM, 6, "", address))
        return entries
