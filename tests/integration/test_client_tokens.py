"""Tokens of a Python client: renewed before they end and after; nothing is lost, or sent twice or as another user."""

import asyncio
import itertools

import pytest

from bbio import Backend, ConfigurationError, Forbidden, Unauthorized, Unavailable, before, read
from bbio.builtin import MemoryStore
from bbio.client import Dropped, connect
from tests.support.proxy import Proxy
from tests.support.servers import eventually

FAST = {"jitter": 0.01, "reconnect": (0.01, 0.05)}
LONG = 100.0


class Site:
    """An application that knows users by tokens `user/number`, or `user/number/warn`, behind a proxy.

    Parameters:
        app: the application.
        proxy: what clients connect to.
        ended: the tokens that have ended.
        asked: what clients have asked for: the user, the method and the text.
    """

    def __init__(self, app, proxy, ended, asked):
        self.app = app
        self.proxy = proxy
        self.ended = ended
        self.asked = asked
        self.opened = []
        self._numbers = itertools.count()

    def token(self, user, warn=0):
        return f"{user}/{next(self._numbers)}/{warn}"

    def connect(self, **options):
        self.opened.append(connect(self.proxy.url, **{**FAST, **options}))
        return self.opened[-1]

    def client(self, user, warn=0, **options):
        """A client that gets tokens, and the list of what it got."""
        tokens = []

        async def get_token():
            tokens.append(self.token(user, warn))
            return tokens[-1]

        return self.connect(**{"get_token": get_token, **options}), tokens

    async def end(self, *tokens):
        self.ended.update(tokens)
        for token in tokens:
            await self.app.revoke(user=token.split("/")[0])

    async def held(self, name="signed"):
        models = await self.connect(auth={"token": self.token("witness")}).backend(name).read()
        return [(model["by"], model["text"]) for model in models]


@pytest.fixture
async def site(serve):
    """The application."""
    ended, asked = set(), []

    class Signed(Backend):
        presence = True
        store = MemoryStore()

        @before
        def who(self, req):
            token = (req.socket.auth or {}).get("token") if req.socket else None
            if token is None and req.channel == "open":
                return
            if token is None or "/" not in token:
                raise Unauthorized("log in first")
            if token in ended:
                raise Unauthorized("the token has ended", expired=True)
            user, _, warn = token.split("/")
            ends = req.socket.memo.setdefault("ends", req.socket.now() + LONG)
            req.identify({"id": user}, expires=ends, warn=float(warn))

        @before("create")
        def sign(self, req):
            req.model["by"] = req.user and req.user["id"]

        @before
        def note(self, req):
            if req.event != "listen":
                asked.append((req.user and req.user["id"], req.method, (req.model or {}).get("text")))

    class Twin(Signed):
        name = "twin"
        store = MemoryStore()

    class Guests(Backend):
        @read
        def joined_with(self, req):
            return [{"auth": req.socket.auth}]

    app = await serve(Signed, Twin, Guests)
    async with Proxy(app.port) as proxy:
        site = Site(app, proxy, ended, asked)
        yield site
        for connection in site.opened:
            await connection.close()


def held(handle):
    return handle._session.renewal.is_held


async def until(condition):
    await eventually(lambda: asyncio.sleep(0, condition()))


async def test_get_token_is_called_once_for_all_backends(site):
    """What else `auth` says is sent too."""
    io, tokens = site.client("ann", auth={"lang": "en"})
    await asyncio.gather(*(io.backend(name).ready() for name in ("signed", "twin")))
    (guest,) = await io.backend("guests").read()
    assert guest["auth"] == {"lang": "en", "token": tokens[0]}
    assert len(tokens) == 1


async def test_a_token_is_replaced_before_it_ends(site):
    """Once for all backends; subscriptions stay as they are."""
    first, tokens = site.token("ann", LONG), []

    def get_token():
        tokens.append(site.token("ann"))
        return tokens[-1]

    io = site.connect(auth={"token": first}, get_token=get_token)
    handles = [io.backend(name) for name in ("signed", "twin")]
    mirrors = [await handle.collection() for handle in handles]
    await until(lambda: all(handle._session.renewal.token in tokens for handle in handles))
    await site.connect(auth={"token": site.token("bob")}).backend("signed").create({"text": "then"})
    await mirrors[0].until(lambda mirror: len(mirror) == 1)
    assert (len(tokens), handles[0]._subscription.answered) == (1, 1)


async def test_what_waits_when_a_token_has_ended_is_sent_once_with_the_next(site):
    """Reads and writes; what others wrote meanwhile is told, and nothing is read anew."""
    first, given = site.token("ann"), asyncio.get_running_loop().create_future()
    io = site.connect(auth={"token": first}, get_token=lambda: given)
    handle = io.backend("signed")
    mirror = await handle.collection()
    async with handle.events() as events:
        await site.end(first)
        await until(lambda: held(handle))
        await site.connect(auth={"token": site.token("bob")}).backend("signed").create({"text": "missed"})
        before = len(site.asked)
        work = [asyncio.create_task(handle.create({"text": text})) for text in ("one", "two")]
        reading = asyncio.create_task(handle.read())
        await asyncio.sleep(0.05)
        assert len(site.asked) == before
        given.set_result(site.token("ann"))
        await asyncio.gather(*work, reading)
        assert (await anext(events)).model["text"] == "missed"
    await mirror.until(lambda mirror: len(mirror) == 3)
    assert sorted(site.asked[before:], key=repr) == [
        ("ann", "create", "one"),
        ("ann", "create", "two"),
        ("ann", "read", None),
    ]
    assert await site.held() == [("bob", "missed"), ("ann", "one"), ("ann", "two")]


async def test_what_was_refused_is_sent_again_as_the_same_operation(site):
    """The server's word that the token has ended was lost: the refusal says it."""
    io, tokens = site.client("ann")
    handle = io.backend("signed")
    await handle.ready()
    session, sent = handle._session, []
    session.renewal.told = lambda news: None
    emit = session.transport.emit

    def note(event, arguments, answer):
        sent.append((event, bytes(arguments[0]) if event == "sync" else None))
        emit(event, arguments, answer)

    session.transport.emit = note
    await site.end(*tokens)
    await handle.create({"text": "mine"})
    first, second = [body for event, body in sent if event == "sync"]
    assert first == second
    assert (await site.held(), len(tokens)) == ([("ann", "mine")], 2)


async def test_without_get_token(site):
    """Requests are refused and followers are told; `authenticate` has subscriptions go on without loss."""
    first = site.token("ann")
    io = site.connect(auth={"token": first})
    handle = io.backend("signed")
    mirror, events = await handle.collection(), handle.events()
    await site.end(first)
    with pytest.raises(Unauthorized) as refused:
        await anext(events)
    assert refused.value.expired
    with pytest.raises(Unauthorized):
        await mirror.changed()
    with pytest.raises(Unauthorized):
        await handle.create({"text": "refused"})
    await site.connect(auth={"token": site.token("bob")}).backend("signed").create({"text": "missed"})
    with pytest.raises(Unauthorized):
        await io.authenticate(first)
    before = len(site.asked)
    await io.authenticate(site.token("ann"))
    await handle.create({"text": "mine"})
    await mirror.until(lambda mirror: len(mirror) == 2)
    assert (await anext(events)).model["text"] == "missed"
    assert [method for _, method, _ in site.asked[before:]] == ["create"]
    await mirror.changed()


async def test_presence_goes_on_with_the_next_token(site):
    """Whoever asks about it meanwhile is not turned away: it is present again as soon as there is a token."""
    gate, tokens = asyncio.Event(), [site.token("ann")]

    async def get_token():
        await gate.wait()
        tokens.append(site.token("ann"))
        return tokens[-1]

    io = site.connect(auth={"token": tokens[0]}, get_token=get_token)
    presence, other = io.backend("signed").presence, site.client("bob")[0].backend("signed").presence
    await presence.join({"n": 1})
    await other.join()
    assert len(other) == 2
    await site.end(tokens[0])
    await until(lambda: not presence._roster._joined)
    joined = asyncio.create_task(presence.join({"n": 2}))
    await until(lambda: presence._roster.state == {"n": 2} and presence._roster._sent is None)
    gate.set()
    await joined
    await other.until(lambda members: [each.state for each in members.values() if each.key != other.me] == [{"n": 2}])
    await presence.until(lambda members: len(members) == 2)


async def test_presence_without_get_token(site):
    """Whoever wants to be present hears why it is not, and is present after `authenticate`."""
    first = site.token("ann")
    io = site.connect(auth={"token": first})
    presence, other = io.backend("signed").presence, site.client("bob")[0].backend("signed").presence
    await other.join()
    await presence.join()
    await site.end(first)
    await other.until(lambda members: len(members) == 1)
    with pytest.raises(Unauthorized):
        await presence.join({"n": 1})
    assert (len(presence), presence.me) == (0, None)
    await io.authenticate(site.token("ann"))
    await other.until(lambda members: len(members) == 2)
    await presence.until(lambda members: len(members) == 2)


async def test_authenticate_takes_tokens_of_the_same_user_alone(site):
    """A token that is refused is not kept; the one that is taken is sent to what is joined later."""
    io = site.connect(auth={"token": site.token("ann")})
    for name in ("signed", "twin"):
        await io.backend(name).ready()
    guests = io.backend("guests")
    await guests.read()
    with pytest.raises(Forbidden):
        await io.authenticate(site.token("bob"))
    with pytest.raises(Unauthorized):
        await io.authenticate("nonsense")
    for bad in (None, "", 7, {}):
        with pytest.raises(ConfigurationError, match="a string that is not empty"):
            await io.authenticate(bad)
    token = site.token("ann")
    await io.authenticate(token)
    site.proxy.refuse()
    await until(lambda: guests._session.transport is None)
    site.proxy.admit()
    assert (await guests.read())[0]["auth"] == {"token": token}
    await io.close()
    with pytest.raises(Unavailable):
        await io.authenticate(token)


async def test_nobody_becomes_somebody(site):
    """Later writes are theirs, and the server has said who they are."""
    io = site.connect()
    handle = io.backend("signed", channel="open")
    mirror = await handle.collection()
    assert handle._subscription.known_as == "nobody"
    await io.authenticate(site.token("ann"))
    await until(lambda: handle._subscription.known_as != "nobody")
    await handle.create({"text": "mine"})
    await mirror.until(lambda mirror: len(mirror) == 1)
    assert await site.held() == [("ann", "mine")]


async def test_a_connection_that_comes_back_asks_for_a_token_first(site):
    """If the one that it has is known to have ended."""
    io, tokens = site.client("ann")
    handle = io.backend("signed")
    await handle.ready()
    site.proxy.refuse()
    await until(lambda: handle._session.transport is None)
    io._identity.told(handle._session.renewal, 0)
    await site.end(*tokens)
    write = asyncio.create_task(handle.create({"text": "waits"}))
    await asyncio.sleep(0)
    site.proxy.admit()
    await write
    assert (len(tokens), await site.held()) == (2, [("ann", "waits")])


@pytest.mark.parametrize("queue", ["drop", "keep"])
async def test_what_waits_for_a_token_is_not_sent_as_another_user(site, queue):
    """Who logs in next finds it dropped, or leaves it to whoever made it."""
    first = site.token("ann")
    io = site.connect(auth={"token": first}, get_token=asyncio.Event().wait, queue=queue)
    handle = io.backend("signed")
    await handle.ready()
    await site.end(first)
    await until(lambda: held(handle))
    write = asyncio.create_task(handle.create({"text": "private"}))
    await asyncio.sleep(0)
    io.connect(get_token=lambda: site.token("bob"), queue=queue)
    await handle.create({"text": "bob's"})
    assert await site.held() == [("bob", "bob's")]
    if queue == "drop":
        with pytest.raises(Dropped):
            await write
    else:
        io.connect(auth={"token": first}, get_token=lambda: site.token("ann"), queue=queue)
        await write
        assert await site.held() == [("bob", "bob's"), ("ann", "private")]


async def test_get_token_that_begins_to_return_tokens_of_another_user(site):
    """Nothing is written as that one."""
    first = site.token("ann")
    io = site.connect(auth={"token": first}, get_token=lambda: site.token("bob"))
    handle = io.backend("signed")
    await handle.ready()
    events = handle.events()
    await site.end(first)
    # Forbidden where the answer about the token of the other one comes first.
    with pytest.raises((Unauthorized, Forbidden)):
        await handle.create({"text": "private"})
    with pytest.raises(Forbidden, match="another user's"):
        await anext(events)
    assert await site.held() == []


async def test_get_token_returns_the_token_and_shows_it_to_nobody(site):
    """To call `authenticate` in it would end itself: it is told so, in a task of its own too. Later calls may."""
    errors, tokens = [], [site.token("ann"), site.token("ann"), site.token("ann")]

    async def get_token():
        for call in (io.authenticate(tokens[0]), asyncio.create_task(io.authenticate(tokens[0]))):
            try:
                await call
            except ConfigurationError as err:
                errors.append(str(err))
        return tokens[1]

    io = site.connect(get_token=get_token)
    await io.backend("signed").create({"text": "x"})
    assert errors == ["authenticate() was called by get_token: have get_token return the token"] * 2
    await io.authenticate(tokens[2])
