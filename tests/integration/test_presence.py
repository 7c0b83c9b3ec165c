"""Presence: who is there, over real connections on both engines, and whatever clients send."""

from __future__ import annotations

import asyncio

import pytest

from bbio import App, Backend, Forbidden, Limits, before, presence
from bbio.builtin import MemoryStore
from bbio.client import connect
from tests.support.servers import eventually
from tests.support.wire import LegacyClient, Wire


class Rooms(Backend):
    """Who a client says it is, it is; nobody is seen in the channel `dark`."""

    store = MemoryStore()
    refused: set[str] = set()
    renamed: dict[str, str] = {}

    @before("read")
    def introduce(self, req):
        req.user = (req.socket.auth or {}).get("user")
        if req.channel == "closed" or req.user in self.refused:
            raise Forbidden("closed")

    @presence
    async def card(self, req):
        if req.channel == "dark" or f"dark {req.user}" in self.refused:
            raise Forbidden("nobody is seen here")
        return {"name": self.renamed.get(req.user, req.user)}


class Plain(Backend):
    """Presence without cards."""

    presence = True


class Bare(Backend):
    """Nothing of the kind."""


QUICK = Limits(grace=0.2)


@pytest.fixture(autouse=True)
def nobody_is_refused():
    """What a test takes away, the next one has again."""
    yield
    Rooms.refused.clear()
    Rooms.renamed.clear()


class Client:
    """A client of one channel that knows the protocol alone, and keeps the list of members as a client should."""

    def __init__(self, namespace, channel):
        self.namespace = namespace
        self.channel = channel
        self.members = {}

    @classmethod
    async def open(cls, wire, backend, channel=None, user=None, **extras):
        namespace = await wire.connect(f"/{backend}", None if user is None else {"user": user})
        client = cls(namespace, channel)
        await client.listen(**extras)
        return client

    async def listen(self, **extras):
        (self.listened,) = await self.namespace.call("listen", self.channel, {"v": 1, **extras})
        return self.listened

    async def ask(self, options):
        """Send a `presence`; the reply comes back, or the error."""
        error, *reply = await self.namespace.call("presence", self.channel, options)
        if error is not None:
            return error["error"]
        if reply and "members" in reply[0]:
            self.at = (reply[0]["epoch"], reply[0]["seq"])
            self.me = reply[0]["me"]
            self.members = {member["key"]: member for member in reply[0]["members"]}
        return reply[0] if reply else None

    async def event(self):
        """Take the next batch."""
        name, channel, news = await self.namespace.event()
        assert (name, channel) == ("presence", self.channel)
        if news is not None:
            assert (news["epoch"], news["seq"]) == (self.at[0], self.at[1] + 1)
            assert news.keys() - {"epoch", "seq"}
            assert all(news.get(part, True) for part in ("joined", "changed", "left")), "nothing is told empty"
            self.at = (news["epoch"], news["seq"])
            for key in news.get("left", ()):
                del self.members[key]
            assert not any(member["key"] in self.members for member in news.get("joined", ()))
            assert all(member["key"] in self.members for member in news.get("changed", ()))
            for member in (*news.get("joined", ()), *news.get("changed", ())):
                self.members[member["key"]] = member
        return news

    async def until(self, condition):
        while not condition(self.members):
            await self.event()

    @property
    def names(self):
        return sorted(member["card"]["name"] or "nobody" for member in self.members.values())


@pytest.fixture
async def enter(serve):
    """`await enter(user, channel)`: a client on a wire of its own, of an application that is started for the test."""
    apps, wires = [], []

    async def enter(user=None, channel=None, *, backend="rooms", limits=QUICK, transport="websocket", **extras):
        if not apps:
            apps.append(await serve(Rooms, Plain, Bare, limits=limits))
        wire = await Wire.open(apps[0].url, transport=transport)
        wires.append(wire)
        client = await Client.open(wire, backend, channel, user, **extras)
        client.app = apps[0]
        return client

    yield enter
    for wire in wires:
        await wire.close()


async def test_members_come_change_and_go(enter):
    """Everybody who is present has the same list, and hears of each change once."""
    ann, bob = await enter("ann", "home"), await enter("bob", "home")
    reply = await ann.ask({"state": {"looking": True}})
    assert reply["members"] == [
        {"key": reply["me"], "card": {"name": "ann"}, "state": {"looking": True}, "connections": 1}
    ]
    await bob.ask({})
    await ann.event()
    assert ann.members == bob.members
    assert bob.members[bob.me]["state"] == {}
    assert (await bob.ask({"state": {"typing": True}})).keys() == {"epoch", "seq", "me"}
    for client in (ann, bob):
        await client.until(lambda members: members[bob.me]["state"] == {"typing": True})
    assert (await ann.ask({"members": True}))["members"] == list(bob.members.values())
    assert await bob.ask(None) is None
    assert (await ann.event())["left"] == [bob.me]
    assert await bob.ask(None) is None, "who is not present may leave"


async def test_tabs_of_a_user_are_one_member(enter):
    """Its state is the one said last, of those that are there; it is back if it comes within the grace."""
    limits = Limits(grace=60)
    ann, one, two = await enter("ann", limits=limits), await enter("bob"), await enter("bob")
    await ann.ask({})
    await one.ask({"state": {"tab": 1}})
    await two.ask({"state": {"tab": 2}})
    assert one.me == two.me
    bob = one.me
    await ann.until(lambda members: members.get(bob, {}).get("connections") == 2)
    assert ann.members[bob]["state"] == {"tab": 2}
    two.namespace.wire.abort()
    await ann.until(lambda members: members[bob]["connections"] == 1)
    assert ann.members[bob]["state"] == {"tab": 1}
    one.namespace.wire.abort()
    assert (await ann.event())["changed"][0]["connections"] == 0
    again = await enter("bob")
    await again.ask({"state": {"tab": 3}})
    assert (await ann.event())["changed"][0]["connections"] == 1


async def test_who_means_to_leave_is_gone_at_once(enter):
    """Without the grace: by the namespace, by the channel, by a word."""
    limits = Limits(grace=60)
    ann = await enter("ann", limits=limits)
    await ann.ask({})
    ways = [
        lambda client: client.namespace.disconnect(),
        lambda client: client.namespace.call("unlisten", [None]),
        lambda client: client.ask(None),
    ]
    for way in ways:
        bob = await enter("bob")
        await bob.ask({})
        await ann.event()
        await way(bob)
        assert (await ann.event())["left"] == [bob.me]


async def test_anonymous_clients_are_members_of_their_own(enter):
    """One that has an id of its own is the same after a lost connection; who has none is gone with its connection."""
    ann = await enter("ann", limits=Limits(grace=0.5))
    await ann.ask({})
    strangers = [
        await enter(),
        await enter(client="a secret of the page's own"),
        await enter(client="another's secret"),
    ]
    for stranger in strangers:
        await stranger.ask({})
    await ann.until(lambda members: len(members) == 4)
    nameless, page, _ = strangers
    nameless.namespace.wire.abort()
    assert (await ann.event()) | {"seq": 0} == {"epoch": ann.at[0], "seq": 0, "left": [nameless.me]}
    page.namespace.wire.abort()
    assert (await ann.event())["changed"][0]["connections"] == 0
    back = await enter(client="a secret of the page's own")
    await back.ask({})
    assert back.me == page.me


async def test_keys_tell_nothing(enter):
    """Of who it is: not what is in it, and another one in each channel and backend."""
    ann = await enter("ann", "one", client="a secret of the page's own")
    other = await enter("ann", "two")
    await ann.ask({})
    await other.ask({})
    assert ann.me != other.me
    plain = await Client.open(ann.namespace.wire, "plain", "one")
    await plain.ask({})
    assert plain.me not in (ann.me, other.me)
    assert [member["card"] for member in plain.members.values()] == [{}]
    assert len({len(key) for key in (ann.me, other.me, plain.me)}) == 1
    wire = "".join(packet.text for packet in ann.namespace.packets)
    assert "secret" not in wire


async def test_a_listen_says_whether_its_client_is_present(enter):
    """So that it joins again when it is not."""
    ann = await enter("ann")
    assert "present" not in ann.listened
    await ann.ask({})
    assert (await ann.listen())["present"] is True
    await ann.ask(None)
    assert "present" not in await ann.listen()


async def test_refusals(enter):
    """Of channels that a client does not listen to, of backends without presence, of the application."""
    ann = await enter("ann")
    for channel in ("home", "x" * 255):
        (error,) = await ann.namespace.call("presence", channel, {})
        assert error["error"]["message"] == "listen to a channel before you are present in it"
    dark = await enter("ann", "dark")
    assert (await dark.ask({}))["message"] == "nobody is seen here"
    bare = await enter(backend="bare")
    assert await bare.ask({}) == {"name": "BadRequest", "message": "'bare' has no presence", "code": 400}
    await ann.namespace.call("unlisten", [None])
    assert (await ann.ask({}))["name"] == "Forbidden"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["home"],
        [None],
        [7, {}],
        [None, 7],
        [None, []],
        [None, "x"],
        [None, True],
        [None, {}, {}],
        ["x" * 256, {}],
        [None, {"state": 7}],
        [None, {"state": []}],
        [None, {"state": {"text": "x" * 1024}}],
        [None, {"state": {"text": "é" * 600}}],
    ],
)
async def test_arguments_of_any_shape(enter, arguments):
    """What is not valid is a BadRequest; the connection goes on, and nobody is told."""
    ann, bob = await enter("ann"), await enter("bob")
    await bob.ask({})
    (reply,) = await ann.namespace.call("presence", *arguments)
    assert reply["error"]["name"] == "BadRequest"
    await ann.ask({})
    assert (await bob.event())["joined"][0]["state"] == {}


@pytest.mark.parametrize(
    "payload",
    [
        '["presence",null,{"state":{"__proto__":{"x":1}}}]',
        '["presence",null,{"state":' + "[" * 200 + "]" * 200 + "}]",
        '["presence",null,{"state":{"x":"\\u0000"}}]',
        '["presence",null,{"state":{"x":1e999}}]',
        '["presence",null,{"state":{"x":"\\ud800"}}]',
    ],
)
async def test_what_cannot_travel_is_refused(enter, payload):
    """As in models."""
    ann = await enter("ann")
    await ann.namespace.raw(payload, 77)
    (reply,) = await ann.namespace.reply(77)
    assert reply["error"]["name"] == "BadRequest"
    assert (await ann.ask({}))["me"]


async def test_unknown_options_and_odd_acks(enter):
    """Options of a later version are ignored, and whoever wants no answer gets none."""
    ann = await enter("ann")
    await ann.namespace.emit("presence", None, {"state": {"__proto": 1}, "later": [1], "members": "yes"})
    await ann.namespace.emit("presence", None, 7)
    reply = await ann.ask({"members": 1})
    assert "members" not in reply
    assert not [packet for packet in ann.namespace.packets if packet.kind == 3 and packet.id == 0]


async def test_a_channel_holds_so_many_members(enter):
    """One more is Busy, and told so; who lingers makes room."""
    limits = Limits(members=2, grace=60)
    ann, bob, cyd = [await enter(name, limits=limits) for name in ("ann", "bob", "cyd")]
    for client in (ann, bob):
        await client.ask({})
    error = await cyd.ask({})
    assert error == {
        "name": "Busy",
        "message": "2 members are present in this channel, which is as many as there may be",
        "code": 429,
        "retry_after": 10.0,
    }
    again = await enter("ann")
    assert (await again.ask({}))["members"], "another connection of a member is no member more"
    again.namespace.wire.abort()
    bob.namespace.wire.abort()
    await ann.until(lambda members: members.get(bob.me, {}).get("connections") == 0)
    assert len((await cyd.ask({}))["members"]) == 2
    assert (await ann.event())["left"] == [bob.me]


async def test_the_latest_of_many_changes_counts(enter):
    """A client may say much; the others are told at most ten times in a second."""
    ann, bob = await enter("ann"), await enter("bob")
    await bob.ask({"state": {"n": -1}})
    await ann.ask({})
    for n in range(500):
        await bob.namespace.emit("presence", None, {"state": {"n": n}})
    begun = asyncio.get_running_loop().time()
    batches = 0
    while ann.members[bob.me]["state"] != {"n": 499}:
        await ann.event()
        batches += 1
    seconds = asyncio.get_running_loop().time() - begun
    assert batches <= 2 + 10 * (seconds + 0.2)


async def test_joining_again_and_again(enter):
    """Is Busy from the eleventh on; what comes and goes within a batch is not told."""
    ann, bob = await enter("ann"), await enter("bob")
    await ann.ask({})
    replies = []
    for _ in range(30):
        replies.append(await bob.ask({}))
        await bob.ask(None)
    busy = [reply for reply in replies if "code" in reply]
    assert {reply["name"] for reply in busy} <= {"Busy"}
    assert busy
    assert 0 < busy[0]["retry_after"] <= 1


async def test_a_leave_that_follows_a_join_at_once(enter):
    """They are done in order, also behind a listen that has not been answered."""
    ann, bob = await enter("ann"), await enter("bob")
    await ann.ask({})
    namespace = bob.namespace
    ids = [
        await namespace.start(*each)
        for each in (
            ("listen", "home", {"v": 1}),
            ("presence", "home", {}),
            ("presence", "home", None),
            ("presence", "home", None),
        )
    ]
    replies = [await namespace.reply(each) for each in ids]
    assert replies[2:] == [[None], [None]]
    assert len(bob.app.gateway.rooms) == 1


async def test_who_may_not_listen_any_more_is_not_present(enter):
    """A recheck ends the presence at once, and lets it begin again once the client may listen."""
    ann, bob = await enter("ann", limits=Limits(grace=60)), await enter("bob")
    for client in (ann, bob):
        await client.ask({})
    await ann.event()
    Rooms.refused.add("bob")
    await ann.app.backends["rooms"].recheck()
    assert (await ann.event())["left"] == [bob.me]
    assert (await bob.ask({}))["name"] == "Forbidden"
    Rooms.refused.clear()
    await bob.listen()
    await bob.ask({})
    assert (await ann.event())["joined"][0]["key"] == bob.me


async def test_cards_are_looked_at_again(enter):
    """What others see of a client changes with it; who is to be seen no more is told, and hears why."""
    ann, bob = await enter("ann"), await enter("bob")
    for client in (ann, bob):
        await client.ask({"state": {"n": 1}})
    await ann.event()
    Rooms.renamed["bob"] = "robert"
    await ann.app.backends["rooms"].recheck()
    await ann.until(lambda members: members[bob.me]["card"] == {"name": "robert"})
    assert ann.members[bob.me]["state"] == {"n": 1}
    await bob.event()
    Rooms.refused.add("dark bob")
    await ann.app.backends["rooms"].recheck()
    assert (await ann.event())["left"] == [bob.me]
    assert await bob.event() is None
    assert (await bob.ask({}))["message"] == "nobody is seen here"
    await ann.app.backends["rooms"].recheck()


async def test_a_poll_that_stays_away(enter):
    """Clients that poll are members like the others."""
    ann, bob = await enter("ann"), await enter("bob", transport="polling")
    await ann.ask({})
    await bob.ask({})
    await ann.event()
    assert bob.names == ["ann", "bob"]
    await ann.ask({"state": {"n": 1}})
    await bob.until(lambda members: members[ann.me]["state"] == {"n": 1})


async def test_who_is_not_present_is_told_nothing(enter):
    """Neither older clients nor those that only listen; who has left no more."""
    app = (ann := await enter("ann")).app
    old = await LegacyClient.open(app.url, "rooms")
    await old.listen(None)
    bob, cyd = await enter("bob"), await enter("cyd")
    dan = await enter("dan")
    await cyd.ask({})
    await cyd.ask(None)
    await ann.ask({})
    await dan.ask({})
    await ann.event()
    await ann.namespace.call("sync", {"method": "create", "model": {}, "options": {}})
    await old.synced()
    assert not old.namespace.events
    for client in (bob, cyd):
        await client.namespace.call("unlisten", [])
    for client in (bob, cyd):
        assert [event[0] for event in client.namespace.events] == ["synced"]
    await old.close()


async def test_silence_is_no_reason_to_wait(serve):
    """Who has answered no heartbeat is gone when its connection is: it has had its time."""
    app = await serve(Rooms, limits=Limits(grace=60), ping_interval=0.2, ping_timeout=0.2)
    async with await Wire.open(app.url) as wire, await Wire.open(app.url, pong=False) as dead:
        ann, bob = await Client.open(wire, "rooms", user="ann"), await Client.open(dead, "rooms", user="bob")
        await ann.ask({})
        await bob.ask({})
        await ann.until(lambda members: bob.me in members)
        await ann.until(lambda members: bob.me not in members)


async def test_nothing_is_left(enter):
    """Of rooms that nobody is in; nor of what their members held."""
    ann, bob = await enter("ann", "home"), await enter("bob", "home")
    app = ann.app
    held = app.gateway.addresses.waiting.held
    for client in (ann, bob):
        await client.ask({"state": {"text": "x" * 500}})
    assert app.gateway.addresses.waiting.held > held + 4_000
    await bob.ask({"state": {}})
    ann.namespace.wire.abort()
    await bob.until(lambda members: len(members) == 1)
    await bob.ask(None)

    async def is_empty():
        return not (len(app.gateway.rooms) or app.gateway.addresses.waiting.held)

    await eventually(is_empty)


async def test_an_address_holds_so_much(serve):
    """Members count as what waits: who is in very many channels is refused."""
    app = await serve(Plain, limits=Limits(memory=100_000))
    async with await Wire.open(app.url) as wire:
        namespace = await wire.connect("/plain")
        names = []
        for n in range(20):
            await namespace.call("listen", str(n), {"v": 1})
            error, *_ = await namespace.call("presence", str(n), {})
            names.append(error and error["error"]["message"])
            await asyncio.sleep(0.1)
        assert "the clients of this address are present in too many channels" in names


async def test_a_client_of_python_is_present_again_after_a_restart():
    """It joins by itself; what it sees is what the new server says."""
    app = App(limits=QUICK).serve(Rooms)
    await app.start()
    port = app.port
    async with connect(app.url, auth={"user": "ann"}, reconnect=(0.05, 0.1), jitter=0.05) as io:
        rooms = io.backend("rooms")
        await rooms.presence.join({"n": 1})
        first = rooms.presence.me
        await app.stop()
        again = App(limits=QUICK).serve(Rooms)
        await again.start(port=port)
        await rooms.presence.until(lambda presence: presence.me not in (None, first), timeout=10)
        assert [member.state for member in rooms.presence.values()] == [{"n": 1}]
    await again.stop()
