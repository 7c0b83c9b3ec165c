"""An `auth` that is being worked on while something is revoked."""

import asyncio

import pytest

from bbio import Backend
from bbio.builtin import MemoryStore, Token
from tests.support.listeners import Server, settled, until


class Notes(Backend):
    """Tokens are good as long as they are in a set; the issuer may take its time."""

    name = "notes"
    store = MemoryStore()

    def __init__(self):
        self.good = {"old", "new"}
        self.asked = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.middleware = [Token(verify=self.verify, cache_seconds=0)]

    async def verify(self, token):
        good = token in self.good
        self.asked.append(token)
        await self.gate.wait()
        return ({"id": "ann"}, None) if good else None


@pytest.mark.parametrize("token", ["old", "new"])
async def test_a_revocation_meanwhile(token):
    """It is not undone by what was found out before it: the issuer is asked again."""
    server = Server(Notes)
    client = server.client()
    backend = server.backend
    client.socket._auth = b'{"token":"old"}'
    client.listen()
    await settled()
    assert "error" not in client.reply
    backend.gate.clear()
    server.gateway.receive(client.socket, "auth", 1, [{"token": token}])
    await until(lambda: backend.asked[1:] == [token])
    backend.good.clear()
    assert server.gateway.revoke(subject="ann") == 1
    backend.gate.set()
    await until(lambda: len(client.acks) == 2)
    assert client.reply["error"]["name"] == "Unauthorized"
    assert client.socket.is_suspended
    await server.close()
