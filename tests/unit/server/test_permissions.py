"""Permissions: who may not read any more hears no more."""

import asyncio

import pytest

from bbio import Backend, Busy, Forbidden, Limits, Timeout, Unavailable, before
from bbio.identity import Identity
from tests.support.listeners import Server, SharedStore, publish, settled, until


class Members(Backend):
    """Who may read is in a set that changes."""

    name = "members"
    store = SharedStore()
    recheck_interval: float | None = None

    def __init__(self):
        self.members = {"ann", "bob"}
        self.failure = None
        self.came = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    @before("read")
    async def members_only(self, req):
        assert req.user is None, "what an earlier admission found is no help to this one"
        req.user = req.socket.headers["name"]
        self.came.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if req.user not in self.members:
            raise Forbidden("members only")


@pytest.fixture
async def club():
    """A gateway with a backend of members."""
    server = Server(Members)
    yield server
    await server.close()


async def member(club, name, *channels, version=1):
    """A client of that name that listens."""
    client = club.client(name=name)
    for channel in channels:
        client.listen(channel, version=version)
        await settled()
    return client


async def test_viewers_are_asked_again_after_an_end_that_came_before_they_were(club):
    """What was to be asked when the application ended keeps nobody from being asked after the next start."""
    permissions = club.subscribers.permissions
    permissions.ask_viewers(None)
    await club.subscribers.close()
    club.subscribers.open()
    before = permissions.rechecks
    permissions.ask_viewers(None)
    await settled()
    assert permissions.rechecks == before + 1


async def test_sessions_that_end_one_after_another_are_ended_together(club):
    """Listeners are looked through once, however many sessions end."""
    permissions = club.subscribers.permissions
    before = permissions.rechecks
    for number in range(100):
        permissions.end_sessions([f"s{number}"])
    await settled()
    assert permissions.rechecks == before + 1
    permissions.end_sessions(["s1"])
    await settled()
    assert permissions.rechecks == before + 2


@pytest.mark.parametrize("fault", ["slow", "failing"])
async def test_a_session_ends_whatever_the_layers_do(club, fault):
    """Who was logged out hears nothing more, also while a layer waits for a database, or fails."""
    ann, bob = [await member(club, name, "a") for name in ("ann", "bob")]
    for client, session in ((ann, "s1"), (bob, "s2")):
        client.socket.identity = Identity(session, session)
    if fault == "slow":
        club.backend.gate.clear()
    else:
        club.backend.failure = Unavailable("the database is down")
    club.subscribers.permissions.end_sessions(["s1"])
    await settled()
    publish(club, club.store.written_by_others("c:a"))
    await settled()
    assert (len(ann.events), len(bob.events)) == (0, 1)
    club.backend.gate.set()


async def test_sessions_that_end_after_the_application(club):
    """Nobody is asked any more."""
    permissions = club.subscribers.permissions
    await club.subscribers.close()
    before = permissions.rechecks
    permissions.end_sessions(["s1"])
    await settled()
    assert permissions.rechecks == before
    assert permissions.live_sessions() == set()
    club.subscribers.open()


@pytest.mark.parametrize("version", [0, 1])
async def test_who_may_not_read_any_more_hears_no_more(club, version):
    """From the end of `recheck` on; the client that keeps positions is told, so that it asks and learns why."""
    ann, bob = [await member(club, name, "a", "b", version=version) for name in ("ann", "bob")]
    club.backend.members.discard("ann")
    publish(club, club.store.written_by_others("c:a"))
    await settled()
    await club.backend.recheck()
    for stream in ("c:a", "c:b", "*"):
        publish(club, club.store.written_by_others(stream))
    await settled()
    assert (len(ann.events), len(bob.events)) == (1, 4)
    assert sorted(ann.resyncs) == (["c:a", "c:b"] if version else [])
    assert bob.resyncs == []
    assert ann.socket.channels == {}
    ann.listen("a", version=version)
    await settled()
    assert ann.reply["error"]["name"] == "Forbidden"


async def test_recheck_of_one_channel_asks_its_listeners(club):
    """The others are left alone; what all channels share is told as long as one is listened to."""
    ann = await member(club, "ann", "a", "b", None)
    club.backend.members.clear()
    await club.backend.recheck("a")
    assert ann.resyncs == ["c:a"]
    await club.backend.recheck("")
    assert ann.resyncs == ["c:a", "c:"]
    for stream in ("c:a", "c:", "c:b", "*"):
        publish(club, club.store.written_by_others(stream))
    await settled()
    assert [arguments[2]["s"] for arguments in ann.events] == ["c:b", "*"]


async def test_who_keeps_only_legacy_channels_is_told_as_a_legacy_client(club):
    """What all channels share comes without positions once no version-1 channel is left."""
    ann = await member(club, "ann", "new")
    ann.listen("old", version=0)
    await settled()
    club.backend.members.clear()
    await club.backend.recheck("new")
    publish(club, club.store.written_by_others("*"))
    await settled()
    assert [len(arguments) for arguments in ann.events] == [2]


async def test_a_sync_to_a_channel_that_was_taken_away_is_refused(club):
    """Naming it, or having listened to it last, does not help."""
    ann = await member(club, "ann", "a", version=0)
    club.backend.members.clear()
    await club.backend.recheck()
    for fields in ({"channel": "a"}, {}):
        ann.sync("create", {"title": "x"}, **fields)
        await settled()
        assert ann.reply["error"]["name"] == "Forbidden"
    assert club.store.streams.stream("c:a").top == 0


@pytest.mark.parametrize("failure", [Unavailable(), Busy(), Timeout(), OSError()])
async def test_a_failure_of_the_server_takes_no_permission_away(club, failure):
    """Who cannot be asked about stays."""
    ann = await member(club, "ann", "a")
    club.backend.failure = failure
    await club.backend.recheck()
    assert list(ann.socket.channels) == ["a"]


async def test_an_admission_that_never_ends_drops_nobody(club):
    """It ends with the deadline."""
    ann = await member(club, "ann", "a")
    club.gateway.exchanges.limits = Limits(deadline=0.02)
    club.backend.gate.clear()
    async with asyncio.timeout(5):
        await club.backend.recheck()
    assert list(ann.socket.channels) == ["a"]


async def test_who_leaves_while_being_asked_about_is_left_alone(club):
    """Nothing is sent to a socket that is gone."""
    ann = await member(club, "ann", "a")
    club.backend.members.clear()
    club.backend.gate.clear()
    club.backend.came.clear()
    rechecking = asyncio.create_task(club.backend.recheck())
    await club.backend.came.wait()
    ann.leave()
    club.backend.gate.set()
    await rechecking
    assert ann.resyncs == []


async def test_a_permission_taken_away_while_a_listen_is_worked_on(club):
    """Who was admitted before the recheck and goes live after it is asked again."""
    await member(club, "bob", "a")
    ann = club.client(name="ann")
    place = club.store.written_by_others("c:a")
    publish(club, place)
    club.forget()
    club.store.gate.clear()
    ann.listen("a", since={"c:a": [place.epoch, 0]})
    await settled()
    club.backend.members.discard("ann")
    await club.backend.recheck()
    club.store.gate.set()
    await settled()
    assert ann.reply["error"]["name"] == "Forbidden"
    assert ann.socket.channels == {}


async def test_a_recheck_while_a_listen_is_worked_on_lets_members_in(club):
    """Asked twice, admitted twice."""
    ann = club.client(name="ann")
    club.store.gate.clear()
    ann.listen("a")
    await settled()
    await club.backend.recheck()
    club.store.gate.set()
    await settled()
    assert list(ann.socket.channels) == ["a"]


async def test_permissions_are_looked_at_periodically_where_that_is_wanted(monkeypatch):
    """`recheck_interval` has everybody asked about again and again; it ends with the application."""
    monkeypatch.setattr(Members, "recheck_interval", 0.01)
    club = Server(Members)
    ann, bob = await member(club, "ann", "a"), await member(club, "bob", "a")
    for client, name in ((ann, "ann"), (bob, "bob")):
        club.backend.members.discard(name)
        await until(lambda: not client.socket.channels)  # noqa: B023
    await asyncio.sleep(0.03)
    club.backend.members.add("ann")
    ann.listen("a")
    await settled()
    await club.close()
    club.backend.members.clear()
    await asyncio.sleep(0.03)
    assert list(ann.socket.channels) == ["a"]


async def test_another_process_has_permissions_looked_at(club):
    """Soon, as that process was told to; nobody is asked where nobody listens, or after the end."""
    asked = club.backend.came
    club.subscribers.recheck_soon()
    await settled()
    assert not asked.is_set()
    ann = await member(club, "ann", "a", "b")
    club.backend.members.clear()
    club.subscribers.recheck_soon("a")
    await settled()
    assert ann.resyncs == ["c:a"]
    await club.subscribers.close()
    club.subscribers.recheck_soon()
    assert not club.subscribers.busy
    club.subscribers.open()


async def test_what_another_process_tells_concerns_also_who_is_about_to_listen():
    """As the first one here: who was admitted before permissions changed is asked again."""

    class Slow(Members):
        @before("read")
        async def take_long(self, req):
            self.is_admitted.set()
            await self.goes_on.wait()

    club = Server(Slow)
    club.backend.is_admitted, club.backend.goes_on = asyncio.Event(), asyncio.Event()
    ann = club.client(name="ann")
    ann.listen("a")
    await club.backend.is_admitted.wait()
    club.backend.members.clear()
    club.subscribers.recheck_soon()
    await settled()
    club.backend.goes_on.set()
    await settled()
    assert ann.reply["error"]["name"] == "Forbidden"
    await club.close()


async def test_other_processes_are_told_to_look_at_permissions(club, monkeypatch):
    """When they cannot be told, that is an error, and those who listen here are asked all the same."""
    told = []

    async def tell_recheck(self, channel):
        told.append(channel)
        raise Unavailable()

    monkeypatch.setattr(SharedStore, "tell_recheck", tell_recheck)
    ann = await member(club, "ann", "a")
    club.backend.members.clear()
    with pytest.raises(Unavailable):
        await club.backend.recheck("a")
    assert told == ["a"]
    assert ann.resyncs == ["c:a"]
