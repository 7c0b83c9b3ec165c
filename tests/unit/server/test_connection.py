"""One connection: the order of its requests, how many run and wait, and who it is."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from bbio import Backend
from bbio.errors import Busy
from bbio.identity import Identity
from bbio.server.budget import REST, SHARE_SECONDS, Budget, Resting
from bbio.server.connection import ClientSocket, Connection
from bbio.server.limits import Limits
from bbio.server.memory import ByteBudget
from bbio.weight import weigh
from tests.support.clock import Clock
from tests.support.servers import eventually
from tests.support.stacks import Served


def connect(clock=None, headers=None, budget=None, **limits):
    """A connection with these limits and handshake headers."""
    proxy = CIMultiDictProxy(CIMultiDict(headers or {}))
    return Connection(proxy, "192.0.2.1", Limits(**limits), clock or Clock(), budget=budget)


class Asked:
    """A request that notes that it was started, or let go, and does nothing else."""

    def __init__(self, requests, name, key=None, goes_on=True, size=0):
        self.requests, self.name, self.key, self.goes_on, self.size = requests, name, key, goes_on, size

    def weigh(self):
        return self.size

    def start(self):
        self.requests.started.append(self.name)
        return self.goes_on

    def let_go(self):
        self.requests.left.append(self.name)


class Requests:
    """Submits named requests and notes which were started, in order."""

    def __init__(self, **limits):
        self.connection = connect(**limits)
        self.started = []
        self.left = []

    def submit(self, name, key=None, goes_on=True, size=0):
        return self.connection.submit(Asked(self, name, key, goes_on, size))

    def finished(self, key=None, size=0):
        self.connection.finished(Asked(self, "", key, size=size))


def test_a_request_starts_at_once_when_nothing_runs():
    """It is not queued, and counts as running only when it goes on."""
    requests = Requests()
    assert not requests.submit("short", ("b", 1), goes_on=False)
    assert requests.connection.running == 0
    assert not requests.submit("long", ("b", 1))
    assert (requests.started, requests.connection.running) == (["short", "long"], 1)


def test_requests_for_one_model_run_in_order():
    """Each waits for the one before it; a short one lets the next start at once."""
    requests, key = Requests(), ("b", 1)
    requests.submit("first", key)
    assert requests.submit("second", key, goes_on=False)
    assert requests.submit("third", key)
    assert requests.started == ["first"]
    requests.finished(key)
    assert requests.started == ["first", "second", "third"]
    assert requests.connection.running == 1
    requests.finished(key)
    assert requests.connection.running == 0


def test_requests_for_other_models_overtake():
    """A model that is being worked on holds up nobody else, nor do requests without an order."""
    requests = Requests()
    requests.submit("first", ("b", 1))
    assert requests.submit("behind", ("b", 1))
    assert not requests.submit("other", ("b", 2))
    assert not requests.submit("short", ("b", 3), goes_on=False)
    assert not requests.submit("free")
    assert requests.started == ["first", "other", "short", "free"]
    assert requests.connection.running == 3


def test_requests_without_an_order_wait_for_a_free_place():
    """No more than `running` run at once; those that wait start in the order they came."""
    requests = Requests(running=2)
    for name in "abcd":
        requests.submit(name)
    assert requests.started == ["a", "b"]
    requests.finished(None)
    assert requests.started == ["a", "b", "c"]
    requests.finished(None)
    assert requests.started == ["a", "b", "c", "d"]
    assert requests.connection.running == 2


def test_short_requests_that_waited_free_their_place_at_once():
    """One free place is enough for all that do not go on."""
    requests = Requests(running=1)
    requests.submit("long")
    for name in ("x", "y"):
        requests.submit(name, goes_on=False)
    requests.finished(None)
    assert requests.started == ["long", "x", "y"]
    assert requests.connection.running == 0


def test_order_survives_waiting_for_a_place():
    """Two requests for one model that both waited for a place still run one after the other."""
    requests, key = Requests(running=2), ("b", 1)
    requests.submit("a")
    requests.submit("b")
    requests.submit("first", key)
    requests.submit("second", key)
    requests.finished(None)
    requests.finished(None)
    assert requests.started == ["a", "b", "first"]
    requests.finished(key)
    assert requests.started == ["a", "b", "first", "second"]


def test_too_many_waiting_requests_are_refused():
    """More than `queued` are told to come back; a place in the queue is free again after one has started."""
    requests, key = Requests(running=1, queued=2), ("b", 1)
    requests.submit("first", key)
    requests.submit("behind", key)
    requests.submit("waiting")
    for refused in (key, None):
        with pytest.raises(Busy) as busy:
            requests.submit("refused", refused)
        assert busy.value.to_json()["retry_after"] == 1.0
    requests.finished(key)
    assert requests.submit("next")
    requests.finished(key)
    requests.finished(None)
    assert requests.started == ["first", "behind", "waiting", "next"]


def test_a_closed_connection_starts_nothing_more():
    """What waited is dropped, what runs may end."""
    requests, key = Requests(running=1), ("b", 1)
    requests.submit("first", key)
    requests.submit("behind", key)
    requests.submit("waiting")
    requests.connection.close()
    requests.finished(key)
    assert (requests.started, sorted(requests.left)) == (["first"], ["behind", "waiting"])
    assert (requests.connection.closed, requests.connection.running) == (True, 0)


def test_what_waits_or_runs_may_hold_so_much():
    """What is too large besides is refused, light requests never; room is free again once those have ended or left."""
    requests, key = Requests(memory=400), ("b", 1)
    requests.submit("first", key, size=150)  # alone, it might be larger than what all may hold
    with pytest.raises(Busy) as busy:
        requests.submit("beside", size=51 - 1 + 150)
    assert busy.value.to_json()["retry_after"] == 1.0
    requests.finished(key, size=150)
    assert requests.connection.waiting.held == 0
    requests.submit("whole", key, size=1_000)
    with pytest.raises(Busy):
        requests.submit("behind", key, size=1)
    assert requests.submit("light", key)
    requests.finished(key, size=1_000)
    requests.finished(key)
    for name in "abc":
        requests.submit(name, key, goes_on=name != "b", size=30)
    requests.finished(key, size=30)
    assert (requests.started[-3:], requests.connection.waiting.held) == (["a", "b", "c"], 30)
    requests.submit("waits", key, size=40)
    requests.connection.close()
    assert requests.connection.waiting.held == 30, "what runs is held until it has ended"
    requests.finished(key, size=30)
    assert requests.connection.waiting.held == 0


def test_the_connections_of_an_address_share_what_may_be_held():
    """And all addresses share what all may hold: each has a half of it."""
    whole = ByteBudget(100)
    one, other = ByteBudget(50, whole), ByteBudget(50, whole)
    one.add(40)
    assert (one.has_room(10), one.has_room(11)) == (True, False)
    other.add(60)
    assert not one.has_room(10)
    one.add(-40)
    other.add(-60)
    assert (one.held, other.held, whole.held) == (0, 0, 0)


def test_nothing_is_started_for_who_does_not_read():
    """Not what comes, nor what waited for a model; all of it in order once the client has read."""
    requests, key = Requests(), ("b", 1)
    requests.submit("first", key)
    requests.submit("second", key)
    requests.connection.hold()
    assert requests.submit("free")
    requests.finished(key)
    assert not requests.connection.is_idle
    assert requests.submit("third", key)
    assert requests.started == ["first"]
    requests.connection.go_on()
    assert requests.started == ["first", "second", "free"]
    requests.finished(key)
    assert requests.started == ["first", "second", "free", "third"]
    requests.finished(key)
    requests.finished()
    assert requests.connection.is_idle


class Resters(Requests):
    """Requests that each take the connection's share of the event loop, by a clock that stands still otherwise."""

    def __init__(self, **limits):
        self.clock = Clock()
        super().__init__(clock=self.clock, **limits)

    def submit(self, name, key=None, goes_on=False, size=0):
        asked = Asked(self, name, key, goes_on, size)
        start = asked.start
        asked.start = lambda: self.take_time() or start()
        return self.connection.submit(asked)

    def take_time(self):
        self.clock.now += SHARE_SECONDS

    def rest(self):
        """Let the time pass that the connection rests."""
        self.connection._resting.cancel()
        self.clock.now = self.connection._budget.paid
        self.connection._rested()


@pytest.mark.parametrize("key", [None, ("b", 1)], ids=["in any order", "in order"])
async def test_what_has_waited_is_started_within_the_share(key):
    """However many could start at once, others have their turn between; what comes meanwhile comes behind."""
    requests = Resters(running=1)
    requests.submit("first", key, goes_on=True)
    for name in "abcde":
        requests.submit(name, key)
    requests.finished(key)
    assert requests.started == ["first", "a", "b"]
    assert not requests.connection.is_idle
    assert requests.submit("f", key)
    requests.rest()
    assert requests.started == ["first", *"abcd"]
    requests.rest()
    assert requests.started == ["first", *"abcdef"]
    assert requests.connection.is_idle
    assert requests.connection._budget._resting.count == 0


async def test_one_that_goes_on_after_a_long_start_keeps_the_order():
    """Behind it its model waits, also while the connection rests."""
    requests, key = Resters(running=1), ("b", 1)
    requests.submit("first", key, goes_on=True)
    requests.submit("second", key, goes_on=True)
    requests.submit("third", key)
    requests.clock.now += 1.0
    requests.connection._budget.spend(2 * SHARE_SECONDS)
    requests.finished(key)
    assert (requests.started, requests.connection.running) == (["first", "second"], 1)
    requests.finished(key)
    assert requests.started == ["first", "second"]
    requests.rest()
    assert requests.started == ["first", "second", "third"]


async def test_who_rests_goes_on_by_itself():
    """With no more than the timer of the rest."""
    requests = Resters(running=1)
    requests.submit("first", goes_on=True)
    for name in "abcd":
        requests.submit(name)
    requests.finished()
    assert requests.started == ["first", "a", "b"]

    async def has_started_all():
        return requests.started == ["first", *"abcd"]

    await eventually(has_started_all)


async def test_who_rests_and_does_not_read_waits_for_both():
    """For the end of the rest and for the client to read, whichever comes last."""
    requests = Resters(running=1)
    requests.submit("first", goes_on=True)
    for name in "abcdefg":
        requests.submit(name)
    requests.finished()
    requests.connection.hold()
    requests.connection.go_on()
    assert requests.started == ["first", *"ab"]
    requests.connection.hold()
    requests.rest()
    assert requests.started == ["first", *"ab"]
    requests.connection.go_on()
    assert requests.started == ["first", *"abcd"]


async def test_a_connection_that_is_closed_rests_no_more():
    """Nothing that waited is started, and the rests of others are not longer for it."""
    requests = Resters(running=1)
    requests.submit("first", goes_on=True)
    for name in "abcd":
        requests.submit(name)
    requests.finished()
    timer = requests.connection._resting
    requests.connection.close()
    assert timer.cancelled()
    assert requests.started == ["first", "a", "b"]
    assert requests.connection._budget._resting.count == 0


async def test_work_at_the_processor_is_paid_for():
    """What cannot be interrupted costs a rest that grows with the square of it, as where it arrives."""
    clock, processor = Clock(), Clock()
    budget = Budget(Resting(), clock, processor)
    requests = Requests(running=1, clock=clock, budget=budget)
    requests.submit("first")

    def work():
        clock.now += 0.02
        processor.now += 0.02
        return False

    for name in "ab":
        asked = Asked(requests, name)
        asked.start = work
        requests.connection.submit(asked)
    requests.finished()
    assert budget.paid - clock.now == pytest.approx(REST * 0.02 * 2)
    requests.connection.close()


def test_a_connection_closed_by_a_request_drops_the_rest():
    """A queued request that closes the connection is the last to start."""
    requests, key = Requests(), ("b", 1)
    requests.submit("first", key)
    closing = Asked(requests, "closing", key)
    closing.start = lambda: requests.connection.close() or False
    requests.connection.submit(closing)
    requests.submit("never", key)
    requests.finished(key)
    assert requests.started == ["first"]


def test_requests_of_a_second_are_counted():
    """The one too many is told how long to wait; the next second begins anew."""
    clock = Clock()
    connection = connect(clock, requests_per_second=2)
    connection.count_request()
    connection.count_request()
    clock.now += 0.25
    with pytest.raises(Busy) as busy:
        connection.count_request()
    assert busy.value.to_json()["retry_after"] == 0.75
    clock.now += 0.75
    connection.count_request()
    connection.count_request()
    with pytest.raises(Busy):
        connection.count_request()


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        (None, {}),
        ("sid=abc; theme=dark", {"sid": "abc", "theme": "dark"}),
        ('a="b c"; b=1=2;c', {"a": "b c", "b": "1=2"}),
        ("sid=inner; sid=outer", {"sid": "inner"}),
        (
            'prefs={"a": [1]}; a,b[]:/=1; Path=/; sid=abc',
            {"prefs": '{"a": [1]}', "a,b[]:/": "1", "Path": "/", "sid": "abc"},
        ),
    ],
)
def test_cookies_of_the_handshake(header, cookies):
    """Layers get the cookies by name, whatever odd cookies of other programs stand beside them."""
    assert connect(headers={} if header is None else {"Cookie": header}).cookies == cookies


def test_a_socket_shows_its_connection():
    """Headers, cookies and address are those of the handshake; channels are the socket's own."""
    connection = connect(headers={"Cookie": "sid=abc", "X-Team": "red"})
    socket = ClientSocket("s1", Served(type("Todos", (Backend,), {})).runtime, connection)
    assert (socket.sid, socket.remote, socket.headers["x-team"]) == ("s1", "192.0.2.1", "red")
    assert socket.cookies == {"sid": "abc"}
    assert (socket.channels, socket.last_channel, socket.peer) == ({}, None, None)


def test_a_socket_outside_of_an_application_takes_another_auth():
    """Nobody counts its identities."""
    socket = ClientSocket("s1", Served(type("Todos", (Backend,), {})).runtime, connect())
    tried = socket.try_auth(b'{"token":"b"}')
    tried.identity = Identity({"id": "ann"})
    socket.take_auth(tried)
    assert (socket.auth, socket.identity) == ({"token": "b"}, tried.identity)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("[" + "[]," * 30_000 + "[]]", 30_000 * 64),
        ("[" + "{}," * 30_000 + "{}]", 30_000 * 72),
        ("[" + '{"a":1},' * 9_000 + "1]", 9_000 * 240),
        ("[" + "0.5," * 30_000 + "1]", 30_000 * 32),
        (b"[" + b"123456," * 30_000 + b"1]", 30_000 * 36),
        ('"' + "x" * 30_000 + '"', 30_000),
        ('"' + "\N{GRINNING FACE}" * 30_000 + '"', 120_000),
    ],
)
def test_what_python_holds_for_json_is_not_underestimated(text, least):
    """A thousand empty lists take much more than their text."""
    assert weigh(text) >= least
    assert weigh(text[:4_096]) == 0
