"""What one client could do with what it is told of another's operations: nothing."""

import asyncio
import secrets

import pytest

from bbio import Backend, before, create
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.streams import public_part
from tests.support.wire import LegacyClient


@pytest.fixture(params=["memory", "sqlite"])
def pastes(request, tmp_path):
    """A paste bin: who makes a paste is told, alone, the token to edit it with."""

    class Pastes(Backend):
        store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "pastes.db")

        @create
        async def make(self, req, next):
            record = await next()
            await asyncio.sleep(0)  # so that the event comes before the answer
            return {**record, "token": "only for its maker"}

    return Pastes


class Writer:
    """A version-1 client that writes, with or without asking for the public part of its id."""

    def __init__(self, client: LegacyClient, own: str) -> None:
        self.client = client
        self.own = own
        self.call = client.namespace.call

    async def listen(self, since=None, **extras):
        (reply,) = await self.call("listen", None, {"v": 1, "since": since or {}, **extras})
        return reply

    async def sync(self, n, method="create", model=None, client=None):
        op = {"c": client or self.own, "n": n}
        return await self.call("sync", {"method": method, "model": model or {"text": "mine"}, "op": op})


@pytest.fixture
def writer(join):
    async def open_one(app, backend="pastes"):
        return Writer(await join(app, backend, ...), secrets.token_hex(12))

    return open_one


async def test_what_events_tell_of_an_operation_is_no_capability(serve, writer, pastes):
    """Who is told an operation can neither have its reply, nor use up the next one, nor pass for its maker."""
    app = await serve(pastes)
    victim, mallory = await writer(app), await writer(app)
    assert (await victim.listen(client=victim.own))["client"] == public_part(victim.own)
    await mallory.listen(client=mallory.own)
    _, mine, _ = await victim.sync(1)
    [_, _, told, place] = await mallory.client.namespace.event()
    assert "token" not in told
    public, _, n = place["op"].rpartition(":")
    assert (public, n) == (public_part(victim.own), "1")
    assert victim.own not in str(place)
    _, stolen, _ = await mallory.sync(1, client=public)
    assert stolen["id"] != mine["id"]
    for n in range(2, 6):
        await mallory.sync(n, "patch", {"id": mine["id"], "junk": n}, client=public)
    for n in range(2, 6):
        assert (await victim.sync(n, "patch", {"id": mine["id"], "n": n}))[0] is None
    assert (await mallory.sync(9))[0] is None
    while (event := await victim.client.namespace.event())[3]["op"] != f"{public_part(mallory.own)}:9":
        forged = "junk" in event[2] and "n" not in event[2]
        assert forged <= (not event[3]["op"].startswith(public_part(victim.own)))


class Key:
    """A user without an id."""


@pytest.mark.parametrize("user", ["ann", {"id": 7}, None, Key()], ids=["name", "record", "nobody", "object"])
async def test_a_client_is_told_whom_it_speaks_for(serve, writer, user):
    """As a text that is the same for one user and client, and no id of anybody; an empty one for all without an id."""

    class Pastes(Backend):
        store = MemoryStore()

        @before("read")
        def who(self, req):
            req.user = user

    app = await serve(Pastes)
    mine, other = await writer(app), await writer(app)
    first = await mine.listen(client=mine.own, user=True)
    assert first == await mine.listen(client=mine.own, user=True)
    if isinstance(user, Key) or user is None:
        assert first["user"] == (None if user is None else "")
        return
    told = {first["user"], (await other.listen(client=other.own, user=True))["user"], first["client"], mine.own}
    assert len(told) == 4
    assert "ann" not in str(told)
    for extras in ({"client": mine.own}, {"user": True}):
        assert "user" not in await mine.listen(**extras)


async def test_an_old_client_retries_after_a_reconnect(serve, writer, pastes):
    """Missed events name no operation that it knows, and its retry is answered as the first time."""
    app = await serve(pastes)
    old = await writer(app)
    reply = await old.listen()
    assert "client" not in reply
    since = {name: [at["epoch"], at["offset"]] for name, at in reply["streams"].items()}
    first = await old.sync(1)
    old.client.wire.abort()
    again = await writer(app)
    reply = await again.listen(since)
    [[method, _, place]] = reply["streams"]["c:"]["events"]
    assert (method, place.pop("op")) == ("create", f"{public_part(old.own)}:1")
    assert (await again.sync(1, client=old.own)) == first
    assert first[2] == place


async def test_an_old_client_knows_its_own_events_again(serve, writer, pastes):
    """Where an event comes before the answer, its writer alone is told the operation as it has named it."""
    app = await serve(pastes)
    old, other, told = await writer(app), await writer(app), await writer(app)
    for one, extras in ((old, {}), (other, {}), (told, {"client": told.own})):
        await one.listen(**extras)
    await old.sync(7)
    await told.sync(8)
    ops = [(await one.client.namespace.event())[3]["op"] for one in (old, other, told) for _ in range(2)]
    public, known = f"{public_part(old.own)}:7", f"{public_part(told.own)}:8"
    assert ops == [f"{old.own}:7", known, public, known, public, known]
