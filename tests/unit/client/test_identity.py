"""When a token is asked for, how often, and what becomes of what waits for it: without a server."""

import asyncio
import logging
import math

import pytest

from bbio import ConfigurationError, Forbidden, SyncError, Timeout, Unauthorized, Unavailable
from bbio.client import identity as module
from bbio.client import renewal as renewal_module
from bbio.client.errors import is_end
from bbio.client.identity import Identity
from bbio.client.renewal import NOBODY, NeverRenewed, Renewal

ENDED = {"error": {"name": "Unauthorized", "message": "ended", "code": 401, "expired": True}}
UNKNOWN = {"error": {"name": "Unauthorized", "message": "nobody's", "code": 401}}
FORBIDDEN = {"error": {"name": "Forbidden", "message": "another user's", "code": 403}}
DOWN = {"error": {"name": "Unavailable", "message": "down", "code": 503}}
OK = {"expires_in": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses and deadlines are a thousandth as long."""
    for name in ("ASK_SECONDS", "FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(module, name, getattr(module, name) / 1000)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition):
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


class Channel:
    """A subscription, as a renewal sees it."""

    def __init__(self):
        self.known_as = "x"
        self.errors = []

    def refused(self, error):
        self.errors.append(type(error))


class Session:
    """A backend that answers with what a function says."""

    max_payload = None

    def __init__(self, identity, answer):
        self.clock = asyncio.get_running_loop()
        self.channel = Channel()
        self.renewal = Renewal(identity, self)
        self.answer = answer
        self.offered, self.listened, self.denied, self.went_on = [], 0, [], 0
        self.renewal.connected(self, "a")

    def following(self):
        return [self.channel]

    def listen_again(self, subscription):
        self.listened += 1

    def deny(self, subscription, error):
        self.denied.append(type(error))

    def go_on(self):
        self.went_on += 1

    def emit(self, event, arguments, answer):
        assert event == "auth"
        self.offered.append(arguments[0]["token"])
        reply = self.answer(self.offered[-1])
        if reply is not None:
            self.clock.call_soon(answer, reply)


class World:
    """A connection to some backends."""

    def __init__(self, *answers, get_token=None, auth={"token": "a"}):  # noqa: B006
        self.is_open = True
        self.now = 1_000.0
        self.sessions = []
        self.identity = Identity(
            lambda: [session.renewal for session in self.sessions], lambda: self.is_open, lambda: self.now
        )
        self.identity.begin(auth, get_token)
        self.sessions = [Session(self.identity, answer) for answer in answers or (lambda token: OK,)]
        self.session, self.renewal = self.sessions[0], self.sessions[0].renewal

    def end(self):
        self.renewal.told({"expires_in": 0})


class Giving:
    """A `get_token` that returns these one after the other, the last again and again; functions are called."""

    def __init__(self, *gifts):
        self.gifts = list(gifts)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        gift = self.gifts.pop(0) if len(self.gifts) > 1 else self.gifts[0]
        return gift() if callable(gift) else gift


def fail():
    raise ValueError("thrown")


async def fail_later():
    raise ValueError("raised")


async def hang():
    await asyncio.Event().wait()


@pytest.fixture
def gate(monkeypatch):
    """A gift for `Giving` that comes when the test opens it: `gate("b")`, then `gate.open.set()`."""
    monkeypatch.setattr(module, "ASK_SECONDS", 10)

    def later(token):
        async def wait():
            await later.open.wait()
            return token

        return wait

    later.open = asyncio.Event()
    return later


async def test_whatever_get_token_does_it_is_called_again(caplog):
    """It raises, hangs, returns nonsense or the token that has ended; what it returned is in no log."""
    get_token = Giving(fail, fail_later, hang, None, 7, "a", "b")
    world = World(get_token=get_token)
    world.end()
    await until(lambda: get_token.calls)
    assert world.renewal.is_held
    await until(lambda: world.renewal.token == "b")
    assert (world.session.offered, world.renewal.is_held, world.session.channel.errors) == (
        ["b"],
        False,
        [Unauthorized],
    )
    causes = [str(record.exc_info[1]) for record in caplog.records if record.levelno == logging.WARNING]
    nonsense = "get_token must return a token, a string that is not empty"
    same = "get_token returned the token that has ended; it must get a new one"
    assert causes == ["thrown", "raised", "", nonsense, nonsense, same]


async def test_all_backends_wait_for_one_call():
    """Whatever else the server says of the end means nothing."""
    get_token = Giving("b")
    world = World(*[lambda token: OK] * 3, get_token=get_token)
    for session in world.sessions:
        session.renewal.told({"expires_in": 60})
    await until(lambda: all(session.renewal.token == "b" for session in world.sessions))
    for bad in (None, {}, {"expires_in": "soon"}, {"expires_in": True}, {"expires_in": -1}, {"expires_in": math.nan}):
        world.renewal.told(bad)
    await settle()
    assert (get_token.calls, [session.offered for session in world.sessions]) == (1, [["b"]] * 3)


async def test_after_six_failures_what_waits_is_refused(gate):
    """It goes on when there is a token after all."""
    get_token = Giving(*[""] * 6, gate("b"))
    world = World(get_token=get_token)
    world.end()
    world.renewal.deny(world.session.channel)
    await until(lambda: get_token.calls == 7)
    assert (world.renewal.is_held, world.session.denied, world.session.went_on) == (False, [Unauthorized], 1)
    assert not world.renewal.awaits(Unauthorized(expired=True), "a")
    gate.open.set()
    await until(lambda: world.renewal.token == "b")
    assert world.session.denied == [Unauthorized]


async def test_failures_before_the_token_has_ended_cost_nobody_anything():
    """It is called at once when it has."""
    get_token = Giving("a")
    world = World(get_token=get_token)
    world.renewal.told({"expires_in": 60})
    await until(lambda: get_token.calls > 6)
    assert (world.session.channel.errors, world.renewal.is_held, world.identity.is_renewable) == ([], False, False)
    world.end()
    assert world.renewal.is_held


async def test_a_token_of_another_user_is_told_at_once(gate):
    """Another one is asked for a while later."""
    get_token = Giving("b", gate("c"))
    world = World(lambda token: FORBIDDEN if token == "b" else OK, get_token=get_token)
    world.end()
    await until(lambda: get_token.calls == 2)
    assert (world.session.channel.errors, world.renewal.token, world.renewal.is_held) == ([Forbidden], "a", False)
    gate.open.set()
    await until(lambda: world.renewal.token == "c")


async def test_a_refusal_of_a_token_that_was_replaced():
    """It says nothing of the new one."""
    get_token = Giving("b")
    world = World(get_token=get_token)
    world.end()
    await until(lambda: world.renewal.token == "b")
    assert world.renewal.awaits(Unauthorized(expired=True), "a")
    world.renewal.deny(world.session.channel)
    assert (get_token.calls, world.renewal.is_held, world.session.listened) == (1, False, 1)
    assert not world.renewal.awaits(Unauthorized(), "b")
    assert not world.renewal.awaits(Forbidden(), "b")


async def test_a_backend_that_was_joined_with_the_token_of_before():
    """It gets the new one, without another call; so it does if it is joined while that is told to others."""
    get_token = Giving("b", "c")
    world = World(*[lambda token: OK] * 2, get_token=get_token)
    one, two = world.sessions
    two.renewal.cut()
    world.end()
    await until(lambda: one.offered)
    two.renewal.connected(two, "a")
    assert two.renewal.awaits(Unauthorized(expired=True), "a")
    await until(lambda: two.renewal.token == "b")
    two.renewal.connected(two, "a")
    assert two.renewal.awaits(Unauthorized(expired=True), "a")
    await until(lambda: two.renewal.token == "b")
    assert (get_token.calls, two.offered, two.renewal.is_held) == (1, ["b", "b"], False)


async def test_a_token_that_has_ended_before_it_came():
    """It is known to have."""
    get_token = Giving("b", "b", "c")
    world = World(lambda token: ENDED if token == "b" else OK, get_token=get_token)
    world.end()
    await until(lambda: world.renewal.token == "c")
    assert world.session.offered == ["b", "c"]


async def test_a_backend_that_does_not_answer_or_not_now(monkeypatch):
    """It is told again."""
    monkeypatch.setattr(renewal_module, "AUTH_ANSWER_SECONDS", 0.01)
    replies = [None, DOWN, OK]
    get_token = Giving("b")
    world = World(lambda token: OK, lambda token: replies.pop(0), get_token=get_token)
    world.renewal.told({"expires_in": 60})
    await until(lambda: world.sessions[1].renewal.token == "b")
    assert [session.offered for session in world.sessions] == [["b"], ["b"] * 3]
    silent = World(lambda token: None)
    with pytest.raises(Timeout):
        await silent.identity.authenticate("b")


async def test_a_backend_that_knows_no_tokens():
    """It refuses each, and that is no failure where another takes it; it is one where it knew this user."""
    world = World(lambda token: OK, lambda token: UNKNOWN)
    with pytest.raises(Unauthorized):
        await world.identity.authenticate("b")
    for nobody in (None, NOBODY):
        world.sessions[1].channel.known_as = nobody
        await world.identity.authenticate("c")
        assert world.sessions[1].renewal.token == "c"
    world.sessions[1].renewal.refused(world.sessions[1].channel)
    with pytest.raises(Unauthorized):
        await world.identity.authenticate("d")
    alone = World(lambda token: UNKNOWN)
    alone.session.channel.known_as = None
    with pytest.raises(Unauthorized):
        await alone.identity.authenticate("b")


async def test_without_a_connection_nothing_is_asked_for(gate):
    """Whoever opens the next one asks."""
    get_token = Giving(gate(""), "", "b")
    world = World(get_token=get_token)
    world.end()
    await until(lambda: get_token.calls == 1)
    world.renewal.cut()
    world.is_open = False
    gate.open.set()
    await until(lambda: world.identity._task.done())
    assert (get_token.calls, world.session.channel.errors) == (1, [])
    await world.identity.prepare()
    await world.identity.prepare()
    assert (await world.identity.credentials(), get_token.calls) == ({"token": "b"}, 3)
    assert world.session.offered == []


async def test_a_client_that_gets_no_token_to_connect_with():
    """After six failures followers are told; it goes on trying."""
    get_token = Giving(*[""] * 7, "b")
    world = World(get_token=get_token, auth=None)
    world.renewal.cut()
    world.is_open = False
    await world.identity.prepare()
    assert (world.session.channel.errors, get_token.calls) == ([Unauthorized], 8)


async def test_what_a_function_for_auth_returns_is_kept():
    """But for its token, unless that one is known to have ended which came by `authenticate`."""

    async def auth():
        return {"lang": "en", "token": "given"}

    world = World(auth=auth)
    assert await world.identity.credentials() == {"lang": "en", "token": "given"}
    await world.identity.authenticate("b")
    assert await world.identity.credentials() == {"lang": "en", "token": "b"}
    world.end()
    assert await world.identity.credentials() == {"lang": "en", "token": "given"}
    assert await World(auth=lambda: None).identity.credentials() == {}


async def test_the_time_of_the_end_is_known():
    """A connection that comes back later does not begin with that token."""
    get_token = Giving("b")
    world = World(lambda token: {"expires_in": 60}, get_token=get_token)
    await world.identity.authenticate("c")
    await world.identity.prepare()
    assert get_token.calls == 0
    world.now += 61
    world.is_open = False
    world.renewal.cut()
    await world.identity.prepare()
    assert (get_token.calls, await world.identity.credentials()) == (1, {"token": "b"})


async def test_authenticate_comes_before_whatever_get_token_does():
    """The latest before the earlier."""
    get_token = Giving(hang)
    world = World(get_token=get_token)
    world.end()
    await until(lambda: get_token.calls)
    first, second = (asyncio.create_task(world.identity.authenticate(token)) for token in "bc")
    with pytest.raises(Unavailable, match="another token took the place of this one"):
        await first
    await second
    assert (world.renewal.token, world.renewal.is_held, world.session.offered) == ("c", False, ["b", "c"])


async def test_authenticate_while_a_connection_waits_for_a_token():
    """It waits no longer."""
    get_token = Giving(hang)
    world = World(get_token=get_token, auth=None)
    world.renewal.cut()
    world.is_open = False
    waiting = asyncio.create_task(world.identity.prepare())
    await until(lambda: get_token.calls)
    await world.identity.authenticate("b")
    await waiting
    assert await world.identity.credentials() == {"token": "b"}


async def test_a_search_that_begins_while_a_token_is_told_is_given_up():
    """The backends take that one; nobody waits for another."""
    answers, get_token = [], Giving(hang)
    world = World(get_token=get_token)
    world.session.emit = lambda event, arguments, answer: answers.append(answer)
    call = asyncio.create_task(world.identity.authenticate("b"))
    await until(lambda: answers)
    world.end()
    await until(lambda: get_token.calls)
    answers[0](OK)
    await call
    await settle()
    assert (world.renewal.token, world.identity._task.cancelled()) == ("b", True)


async def test_an_authenticate_that_fails_leaves_it_to_get_token():
    get_token = Giving(hang, "b")
    world = World(lambda token: UNKNOWN if token == "bad" else OK, get_token=get_token)
    world.end()
    await until(lambda: get_token.calls)
    with pytest.raises(Unauthorized):
        await world.identity.authenticate("bad")
    await until(lambda: world.renewal.token == "b")


async def test_a_connection_that_goes_while_a_token_is_told():
    """It is taken along to the next; an answer that comes later counts no more."""
    answers = []
    world = World(lambda token: None)
    world.session.emit = lambda event, arguments, answer: answers.append(answer)
    call = asyncio.create_task(world.identity.authenticate("b"))
    await until(lambda: answers)
    world.renewal.cut()
    await call
    answers[0](OK)
    assert (await world.identity.credentials(), world.renewal.token) == ({"token": "b"}, "a")
    cancelled = World(lambda token: None)
    call = asyncio.create_task(cancelled.identity.authenticate("b"))
    await until(lambda: cancelled.session.offered)
    call.cancel()
    await settle()
    cancelled.renewal.cut()


def test_wrong_arguments():
    for bad in ("token", {}, 7):
        with pytest.raises(ConfigurationError, match="give a function that returns a token"):
            World.__init__(World.__new__(World), get_token=bad)


def test_a_connection_without_tokens():
    """Nothing is renewed."""
    never = NeverRenewed()
    renewal = Renewal(never, None)
    never.told(renewal, 0)
    assert not renewal.awaits(Unauthorized(expired=True), None)
    assert not is_end(SyncError())


async def test_what_is_told_of_another_token_says_nothing_of_this_one():
    """A backend that still has the one of before is no reason to ask."""
    get_token = Giving("b")
    world = World(get_token=get_token)
    world.renewal.token = "before"
    world.renewal.told({"expires_in": 60})
    await settle()
    assert get_token.calls == 0


async def test_a_token_that_is_refused_leaves_the_search_for_one_going():
    """`get_token` is called on, as the token of before has ended."""
    get_token = Giving(hang)
    world = World(lambda token: FORBIDDEN, get_token=get_token)
    world.end()
    await until(lambda: get_token.calls)
    before = get_token.calls
    with pytest.raises(Forbidden):
        await world.identity.authenticate("c")
    await until(lambda: get_token.calls > before)
    world.identity.stop()


async def test_nobody_asks_without_a_connection():
    """Whoever opens the next one does."""
    get_token = Giving("b")
    world = World(get_token=get_token)
    world.is_open = False
    world.end()
    await settle()
    assert get_token.calls == 0


async def test_who_joins_meanwhile_with_the_token_of_before_gets_the_new_one():
    """Without another call of `get_token`."""
    get_token = Giving("b")

    def answer(token):
        if len(world.sessions) == 1:
            world.sessions.append(Session(world.identity, lambda token: OK))
            world.sessions[1].renewal.told({"expires_in": 0})
        return OK

    world = World(answer, get_token=get_token)
    world.end()
    await until(lambda: len(world.sessions) == 2 and world.sessions[1].renewal.token == "b")
    assert get_token.calls == 1


async def test_a_backend_that_waits_for_nothing_is_not_given_up():
    """Nothing of it is refused."""
    world = World()
    world.renewal.give_up(Unauthorized())
    assert (world.session.channel.errors, world.session.denied) == ([], [])
