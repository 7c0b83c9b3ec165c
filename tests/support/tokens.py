"""Signed tokens for the tests, and a real server of their keys."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

SECRET = "a secret that is long enough for tests of tokens"


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def signed(key: Any = SECRET, algorithm: str = "HS256", *, kid: str | None = None, **claims: Any) -> str:
    """A token of ann's that is valid for an hour; a claim that is None is left out."""
    said = {"sub": "ann", "exp": time.time() + 3_600, **claims}
    headers = None if kid is None else {"kid": kid}
    return jwt.encode({name: each for name, each in said.items() if each is not None}, key, algorithm, headers=headers)


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """The public part of an RSA key, as a key set has it."""
    entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(name).public_key()))
    return {**entry, "kid": name, "use": "sig", "alg": "RS256", **more}


class KeyServer:
    """A server of keys whose answers a test chooses."""

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk("one")]
        self.body: bytes | None = None
        self.status = 200
        self.location = "http://localhost:1/"
        self.delay = 0.0
        self.asked = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.delay)
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        headers = {"Location": self.location} if self.status == 302 else None
        return web.Response(status=self.status, body=body, content_type="application/json", headers=headers)


@asynccontextmanager
async def key_server() -> Any:
    server = KeyServer()
    application = web.Application()
    application.router.add_get("/keys", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    try:
        yield server
    finally:
        await runner.cleanup()
