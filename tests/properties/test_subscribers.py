"""Schedules of writes, lost and late notifications, joins, leaves and lost histories: nothing lost, nothing twice."""

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from bbio import Backend, HistoryLimits
from bbio.streams import EVENT_BYTES
from tests.support.listeners import Client, Server, SharedStore, settled

STREAMS = ("c:", "*")


class Todos(Backend):
    """A backend with so little history that it is often lost."""

    class Forgetful(SharedStore):
        history = HistoryLimits(events=4)

    store = Forgetful()


class Reader:
    """A client as docs/protocol.md tells one to be; it checks at each step what it may rely on."""

    def __init__(self, server):
        self.server = server
        self.places = {}
        self.client = None
        self.listening = False
        self.read = 0

    def come(self):
        self.client = Client(self.server)
        self.read = 0
        self.listen()

    def leave(self):
        self.client.leave()
        self.client = None

    def listen(self):
        self.listening = True
        self.held = []
        self.claimed = dict(self.places)
        self.client.listen(since={name: list(place) for name, place in self.claimed.items()})

    def take(self):
        """Take what has arrived."""
        while self.client is not None and self.read < len(self.client.received):
            name, arguments = self.client.received[self.read]
            self.read += 1
            if name == "ack":
                self.listened(arguments[0]["streams"])
            elif name == "resync":
                if not self.listening:
                    self.listen()
            elif self.listening:
                self.held.append(arguments[2])
            else:
                self.event(arguments[2])

    def listened(self, streams):
        self.listening = False
        for name, told in streams.items():
            if told["recovered"]:
                epoch, offset = self.claimed[name]
                assert told["epoch"] == epoch
                assert [event[2]["o"] for event in told["events"]] == list(range(offset + 1, told["offset"] + 1))
            # Else everything is read, which is as of now, and the place is one that lies behind.
            top = self.server.store.streams.stream(name)
            assert told["epoch"] != top.epoch or told["offset"] <= top.top
            self.places[name] = (told["epoch"], told["offset"])
        held, self.held = self.held, []
        for place in held:
            self.event(place)

    def event(self, place):
        if self.listening:
            self.held.append(place)
            return
        epoch, offset = self.places[place["s"]]
        if place["e"] == epoch and place["o"] <= offset:
            return
        if place["e"] == epoch and place["o"] == offset + 1:
            self.places[place["s"]] = (epoch, offset + 1)
        else:
            self.listen()


ACTIONS = st.lists(
    st.sampled_from(["write", "write", "others", "others", "late", "twice", "check", "gate", "forget", "step", "take"])
    | st.tuples(st.sampled_from(["come", "leave"]), st.integers(0, 2)),
    max_size=60,
)


async def run(actions, streams):
    """Go through a schedule, let everything heal, and compare."""
    server = Server(Todos)
    store = server.store
    readers = [Reader(server) for _ in range(3)]
    legacy = server.client()
    legacy.listen(version=0)
    await settled()
    late = []
    choose = iter(streams * 60)
    for action in actions:
        match action:
            case "write":
                # As a store does it: commit, then publish; the writer is a legacy client.
                server.subscribers.event(store.written_by_others("c:"), legacy.socket)
            case "others":
                late.append(store.written_by_others(next(choose)))
            case "late" if late:
                server.subscribers.event(late.pop(), None)
            case "twice" if late:
                server.subscribers.event(late[0], None)
            case "check":
                server.subscribers.doubt()
            case "gate":
                store.gate.clear() if store.gate.is_set() else store.gate.set()
            case "forget":
                store.streams.forget("c:")
            case "step":
                await asyncio.sleep(0)
            case "take":
                for reader in readers:
                    reader.take()
            case ("come", n) if readers[n].client is None:
                readers[n].come()
            case ("leave", n) if readers[n].client is not None:
                readers[n].leave()
    store.gate.set()
    for _ in range(6):
        await settled()
        for reader in readers:
            if reader.client is None:
                reader.come()
            reader.take()
        server.subscribers.doubt()
    await settled()
    for reader in readers:
        reader.take()
        assert not reader.listening
        for name in STREAMS:
            top = store.streams.stream(name).position
            assert reader.places[name] == (top.epoch, top.offset)
    await server.close()
    assert server.subscribers._streams.keys() <= {"c:", "*"}
    assert all(not followed.waiting for followed in server.subscribers._streams.values())
    assert all(not followed.joining for followed in server.subscribers._streams.values())
    rings = server.subscribers.listeners._rings
    assert rings is None or rings.bytes == sum(
        len(event.body) + EVENT_BYTES for followed in server.subscribers._streams.values() for event in followed.recent
    )


@given(ACTIONS, st.lists(st.sampled_from(STREAMS), min_size=1, max_size=4))
@example([("come", 0), "step", "gate", "forget", "others", "late", "step", ("leave", 0), ("come", 0)], ["c:"])
@example(["write", ("come", 0), "gate", ("leave", 0), "write", ("come", 0), "step", "write", "forget"], ["c:"])
def test_every_reader_ends_up_at_the_top(actions, streams):
    """Whatever happens, what a reader applies is contiguous, and when all has healed it has seen everything."""
    asyncio.run(run(actions, streams))
