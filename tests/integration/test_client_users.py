"""Log-in and log-out of a Python client: no write is made by somebody else, and none twice."""

import asyncio

import pytest

from bbio import Backend, ConfigurationError, Forbidden, InternalError, Unavailable, UnknownOutcome, before
from bbio.builtin import MemoryStore
from bbio.client import Dropped, connect
from bbio.client import socket as sockets
from tests.support.proxy import Proxy
from tests.support.servers import eventually

FAST = {"jitter": 0.01, "reconnect": (0.01, 0.05)}


class Letters:
    """An application whose models are signed by who wrote them, behind a proxy.

    Parameters:
        app: the application.
        proxy: what clients connect to.
        gate: opened, lets slow writes go on.
    """

    def __init__(self, app, proxy, gate):
        self.app = app
        self.proxy = proxy
        self.gate = gate
        self.came = asyncio.Event()
        self.opened = []

    def connect(self, who=None, url=None, **options):
        auth = options.pop("auth", {"who": who} if who else None)
        self.opened.append(connect(url or self.proxy.url, auth=auth, **{**FAST, **options}))
        return self.opened[-1]

    async def held(self):
        """What the store holds: who wrote what."""
        models = await self.connect("witness", self.app.url).backend("letters").read()
        return [(model["by"], model["text"]) for model in models]

    async def offline(self, handle):
        self.proxy.refuse()
        await eventually(lambda: asyncio.sleep(0, handle._session.transport is None))


@pytest.fixture
async def letters(serve):
    """The application, with a place to write as many users."""
    gate = asyncio.Event()

    class LettersBackend(Backend):
        name = "letters"
        store = MemoryStore()

        @before
        def who(self, req):
            req.user = (req.socket.auth or {}).get("who") if req.socket else None
            if req.user == "a guest":
                req.user = object()

        @before("read")
        def admit(self, req):
            if req.user == "a writer" and req.event == "listen":
                raise Forbidden("writers do not listen")

        @before("create", "patch")
        async def sign(self, req):
            if req.options.get("slow"):
                site.came.set()
                await gate.wait()
            req.model["by"] = req.user

    app = await serve(LettersBackend)
    async with Proxy(app.port) as proxy:
        site = Letters(app, proxy, gate)
        yield site
        for connection in site.opened:
            await connection.close()


def writing(handle, text, **options):
    return asyncio.create_task(handle.create({"text": text}, options=options))


@pytest.mark.parametrize("queue", ["drop", "keep"])
async def test_what_waits_when_another_user_connects_is_not_written_by_that_one(letters, queue):
    """It fails, or waits until its user is back, however long that takes."""
    io = letters.connect("ann")
    handle = io.backend("letters")
    mirror = await handle.collection()
    await letters.offline(handle)
    private = writing(handle, "private")
    await asyncio.sleep(0)
    letters.proxy.admit()
    io.connect(auth={"who": "bob"}, queue=queue)
    await handle.create({"text": "bob's"})
    assert await letters.held() == [("bob", "bob's")]
    if queue == "drop":
        with pytest.raises(Dropped, match="the create waited to be sent to 'letters' when another user connected"):
            await private
    else:
        assert not private.done()
        io.connect(auth={"who": "ann"}, queue=queue)
        assert (await private)["by"] == "ann"
        assert await letters.held() == [("bob", "bob's"), ("ann", "private")]
    await mirror.until(lambda mirror: len(mirror) == (1 if queue == "drop" else 2))


@pytest.mark.parametrize("transports", [["websocket"], ["polling"]], ids=str)
async def test_what_is_under_way_is_answered_by_the_old_connection(letters, transports):
    """Once, as who made it, while the new one is in use already; then the old one is closed."""
    url = letters.app.url if transports == ["polling"] else None
    io = letters.connect("ann", url, transports=transports)
    handle = io.backend("letters")
    mirror = await handle.collection()
    cart = writing(handle, "cart", slow=True)
    await letters.came.wait()
    io.connect(auth={"who": "bob"})
    assert (await handle.create({"text": "bob's"}))["by"] == "bob"
    assert not cart.done()
    letters.gate.set()
    made = await cart
    assert made["by"] == "ann"
    await mirror.until(lambda mirror: len(mirror) == 2)
    assert mirror[made["id"]] == made
    assert sorted(await letters.held()) == [("ann", "cart"), ("bob", "bob's")]
    await eventually(lambda: asyncio.sleep(0, not io._draining))


@pytest.mark.parametrize("end", ["late", "cut", "closed"])
async def test_what_the_old_connection_cannot_answer_has_an_unknown_outcome(letters, monkeypatch, end):
    """When its time is over, or when it ends; it is not sent again."""
    monkeypatch.setattr(sockets, "DRAIN_SECONDS", 0.1 if end == "late" else 60.0)
    io = letters.connect("ann")
    handle = io.backend("letters")
    await handle.ready()
    order = writing(handle, "order", slow=True)
    await letters.came.wait()
    io.connect(auth={"who": "bob"})
    await handle.ready()
    if end == "cut":
        letters.proxy.paths[0].cut()
    elif end == "closed":
        await io.close()
    with pytest.raises(UnknownOutcome, match="the create may have been applied"):
        await order
    letters.gate.set()
    if end != "closed":
        await handle.create({"text": "bob's"})
    # The server goes on with what has reached it.
    await eventually(lambda: _is(letters, [("ann", "order"), ("bob", "bob's")][: 1 if end == "closed" else 2]))


async def _is(letters, expected):
    return sorted(await letters.held()) == expected


async def test_what_was_sent_on_a_lost_connection_is_not_sent_as_another(letters):
    """It may have been applied, and only its user could ask."""
    io = letters.connect("ann")
    handle = io.backend("letters")
    await handle.ready()
    letters.proxy.hold_answers()
    order = writing(handle, "order")
    await eventually(lambda: _is(letters, [("ann", "order")]))
    await letters.offline(handle)
    letters.proxy.release_answers()
    letters.proxy.admit()
    io.connect()
    with pytest.raises(UnknownOutcome):
        await order
    assert [model["text"] for model in await handle.read()] == ["order"]


async def test_who_logs_out_and_in_again_keeps_what_waited(letters):
    """A user who is named is the same with another token, and is sent in order, once."""
    io = letters.connect(auth={"who": "ann", "token": 1}, user="ann")
    handle = io.backend("letters")
    milk = await handle.create({"text": "milk"})
    await letters.offline(handle)
    writes = [asyncio.create_task(handle.patch({"id": milk["id"], "text": str(n)})) for n in range(5)]
    await asyncio.sleep(0)
    io.connect(auth=lambda: {"who": "ann", "token": 2}, user="ann")
    io.connect(auth={"who": "nobody"}, queue="keep")
    letters.proxy.admit()
    await handle.read()
    assert not any(write.done() for write in writes)
    io.connect(auth=lambda: {"who": "ann", "token": 3}, user="ann")
    assert [(await write)["text"] for write in writes] == ["0", "1", "2", "3", "4"]
    assert await letters.held() == [("ann", "4")]


async def test_a_users_writes_keep_their_order_over_a_change_of_connection(letters):
    """What is written after the log-in waits for what the old connection still has to answer."""
    io = letters.connect(auth={"who": "ann"}, user="ann")
    handle = io.backend("letters")
    milk = await handle.create({"text": "milk"})
    first = asyncio.create_task(handle.patch({"id": milk["id"], "text": "first"}, options={"slow": True}))
    await letters.came.wait()
    io.connect(auth={"who": "ann", "token": 2}, user="ann")
    await handle.ready()
    second = asyncio.create_task(handle.patch({"id": milk["id"], "text": "second"}))
    assert await handle.read(milk["id"]) == milk
    letters.gate.set()
    await asyncio.gather(first, second)
    assert await letters.held() == [("ann", "second")]


async def test_a_connection_that_is_being_opened_is_given_up(letters):
    """Credentials that never come, or a pause before the next attempt, hold up no log-in."""
    never = asyncio.Event()
    io = letters.connect(auth=never.wait, reconnect=(60.0, 60.0))
    io.connect(user="early")  # before there is anything to connect
    io.connect(auth=never.wait)
    handle = io.backend("letters")
    write = writing(handle, "never")
    read = asyncio.create_task(handle.read())
    await asyncio.sleep(0)
    io.connect(auth={"who": "bob"})
    with pytest.raises(Dropped):
        await write
    assert await read == []
    letters.proxy.refuse()
    await eventually(lambda: asyncio.sleep(0, io._current is None))
    letters.proxy.admit()
    io.connect(auth={"who": "ann"})
    assert (await handle.create({"text": "x"}))["by"] == "ann"


async def test_who_was_refused_is_let_in_after_the_log_in(serve, letters):
    """A backend that is not served to one may be for another; what another has kept does not fail with it."""
    io = letters.connect("ann", queue_limit=1)
    handle = io.backend("letters")
    await handle.ready()
    await letters.offline(handle)
    kept = writing(handle, "kept")
    await asyncio.sleep(0)
    io.connect(auth={"who": "x" * 20_000}, queue="keep")  # more than the server takes
    letters.proxy.admit()
    with pytest.raises(Exception, match="refused the backend"):
        await handle.create({"text": "no"})
    assert not kept.done()
    io.connect(auth={"who": "ann"})
    assert (await kept)["by"] == "ann"


# A function for `auth` that speaks for another: the server tells


class Change:
    """A user who is another one at the next connection, and nobody has said so."""

    def __init__(self, letters, who, **options):
        self.letters = letters
        self.who = who
        self.told = []
        self.asked = asyncio.Event()
        self.handle = letters.connect(auth=self.auth, dropped=self.dropped, **options).backend("letters")

    def auth(self):
        self.asked.set()
        return {"who": self.who} if self.who else None

    def dropped(self, handle, writes):
        self.told.append((handle, [(write.method, write.model) for write in writes]))

    async def to(self, who):
        """Another connection, of another user."""
        await self.letters.offline(self.handle)
        self.who = who
        # An attempt with what was said before may be under way.
        self.asked.clear()
        await self.asked.wait()
        self.letters.proxy.admit()


@pytest.mark.parametrize(("who", "then"), [("ann", "bob"), ("ann", None), (None, "bob")])
@pytest.mark.parametrize("queue", ["drop", "keep"])
async def test_what_waits_is_not_written_by_whom_auth_names_next(letters, queue, who, then):
    """It fails, and the application is told; or it waits until its user is back."""
    change = Change(letters, who, queue=queue)
    handle = change.handle
    await handle.ready()
    await letters.offline(handle)
    private = [writing(handle, text) for text in ("private", "secret")]
    await asyncio.sleep(0)
    await change.to(then)
    await handle.ready()
    await handle.create({"text": "then"})
    assert await letters.held() == [(then, "then")]
    if queue == "drop":
        for write in private:
            with pytest.raises(Dropped, match="the create waited to be sent to 'letters' when another user connected"):
                await write
        assert change.told == [(handle, [("create", {"text": text}) for text in ("private", "secret")])]
    else:
        assert not any(write.done() for write in private)
        await change.to(who)
        assert [(await write)["by"] for write in private] == [who, who]
        assert change.told == []


@pytest.mark.parametrize(("who", "then"), [("ann", "a guest"), ("a guest", "ann")])
async def test_a_user_without_an_id_is_another_than_one_with_an_id(letters, who, then):
    """And the same as before, when it comes back: then the store says that it cannot be told from others."""
    change = Change(letters, who)
    handle = change.handle
    await handle.ready()
    await letters.offline(handle)
    private = writing(handle, "private")
    await asyncio.sleep(0)
    await change.to(then)
    with pytest.raises(Dropped):
        await private
    await change.to("a guest")
    await handle.ready()
    await letters.offline(handle)
    own = writing(handle, "own")
    await asyncio.sleep(0)
    await change.to("a guest")
    with pytest.raises(InternalError):
        await own
    assert await letters.held() == []


async def test_what_auth_named_the_sender_of_is_not_sent_as_another(letters):
    """Its answer was lost: only its user could ask for it."""
    change = Change(letters, "ann")
    await change.handle.ready()
    letters.proxy.hold_answers()
    order = writing(change.handle, "order")
    await eventually(lambda: _is(letters, [("ann", "order")]))
    await letters.offline(change.handle)
    letters.proxy.release_answers()
    await change.to("bob")
    with pytest.raises(UnknownOutcome):
        await order
    assert [model["text"] for model in await change.handle.read()] == ["order"]
    assert change.told == []


async def test_whom_the_server_lets_write_alone_does_not_write_for_another(letters):
    """Of who may not listen it tells nothing; what waits fails as the listen does, and what comes then is written."""
    change = Change(letters, "ann")
    await change.handle.ready()
    await letters.offline(change.handle)
    private, search = writing(change.handle, "private"), asyncio.create_task(change.handle.read())
    await asyncio.sleep(0)
    await change.to("a writer")
    with pytest.raises(Forbidden, match="writers do not listen"):
        await private
    assert await search == []
    await change.handle.create({"text": "open"})
    await change.to("a writer")
    await change.handle.create({"text": "again"})
    assert await letters.held() == [("a writer", "open"), ("a writer", "again")]


async def test_the_same_user_with_another_token_goes_on(letters):
    """Who was not known when it wrote, as it had never been there, is whoever comes first."""
    change = Change(letters, "ann")
    letters.proxy.refuse()
    first = writing(change.handle, "first")
    await asyncio.sleep(0)
    letters.proxy.admit()
    await first
    for text in ("second", "third"):
        await letters.offline(change.handle)
        write = writing(change.handle, text)
        await asyncio.sleep(0)
        await change.to("ann")
        await write
    assert await letters.held() == [("ann", "first"), ("ann", "second"), ("ann", "third")]


async def test_what_raises_when_it_is_told_of_dropped_writes_is_reported(letters):
    """And costs neither the writes their error nor the connection anything."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    io = letters.connect("ann", dropped=lambda handle, writes: 1 / 0)
    handle = io.backend("letters")
    await handle.ready()
    await letters.offline(handle)
    private = writing(handle, "private")
    await asyncio.sleep(0)
    io.connect(auth={"who": "bob"})
    letters.proxy.admit()
    with pytest.raises(Dropped) as caught:
        await private
    assert (caught.value.method, caught.value.model) == ("create", {"text": "private"})
    assert [str(context["exception"]) for context in reported] == ["division by zero"]
    assert "connect(dropped=...) of 'letters' failed" in reported[0]["message"]
    assert (await handle.create({"text": "x"}))["by"] == "bob"


async def test_mistakes_are_told():
    """At once."""
    io = connect("http://localhost:1")
    for wrong in ({"queue": "forget"}, {"user": 7}, {"auth": "token"}):
        with pytest.raises(ConfigurationError, match=f"connect.{next(iter(wrong))}="):
            io.connect(**wrong)
    await io.close()
    with pytest.raises(Unavailable, match="was closed"):
        io.connect()
