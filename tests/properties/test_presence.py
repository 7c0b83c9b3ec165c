"""Presence over random schedules: tabs that come, go, are cut and refused; users that change what they are.

A naive model says who is there: the users of tabs that are present. Once all faults are healed, and the grace is over,
every tab that is present sees exactly them; nobody else sees anybody, and nobody who is gone is seen.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbio import App, Backend, Forbidden, Limits, before, presence
from bbio.builtin import MemoryStore
from tests.support.examples import examples

USERS = ("ann", "bob", None)
TABS = 4
GRACE = 10.0
# Seconds after which nobody who is gone is seen.
GHOST_SECONDS = 15.0


class Rooms(Backend):
    """Who is barred may not listen."""

    store = MemoryStore()
    barred: set[str | None] = set()
    titles: dict[str | None, int] = {}

    @before("read")
    def admit(self, req):
        if req.user in self.barred:
            raise Forbidden("barred")

    @presence
    def card(self, req):
        return {"user": req.user, "title": self.titles.get(req.user, 0)}


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["join", "leave", "cut", "offline", "online", "close", "open"]), st.integers(0, TABS - 1)
        ),
        st.tuples(st.just("set"), st.integers(0, TABS - 1)),
        st.tuples(st.sampled_from(["bar", "admit", "title"]), st.sampled_from(USERS)),
        st.tuples(st.sampled_from(["drop acks", "drop events", "duplicate"]), st.integers(1, 2)),
        st.tuples(st.just("advance"), st.sampled_from([0.03, 0.2, 3.0, 11.0])),
    ),
    max_size=25,
)


class Tab:
    """One tab: its connection, and whether it is to be present."""

    def __init__(self, t, number):
        self.t = t
        self.user = USERS[number % len(USERS)]
        self.open()

    def open(self):
        self.connection = self.t.connect(user=self.user, jitter=0.1)
        self.handle = self.connection.backend("rooms")
        self.presence = self.handle.presence
        self.wants = False
        self.said = None

    def join(self, said):
        self.wants, self.said = True, said
        self.joining = asyncio.ensure_future(self.presence.join({"n": said}))
        self.joining.add_done_callback(lambda done: done.cancelled() or done.exception())

    def leave(self):
        self.wants = False
        self.presence.leave()

    @property
    def is_present(self):
        return self.presence.me is not None


async def play(steps):
    Rooms.barred.clear()
    Rooms.titles.clear()
    async with App(limits=Limits(grace=GRACE)).serve(Rooms).test() as t:
        tabs = [Tab(t, number) for number in range(TABS)]
        for number, (what, of) in enumerate(steps):
            await step(t, tabs, what, of, number)
        t.heal()
        await t.settle()
        Rooms.barred.clear()
        await t.app.backends["rooms"].recheck()
        await t.settle()
        refused = [tab for tab in tabs if tab.wants and not tab.is_present]
        t.cut(*[tab.connection for tab in refused] or [tabs[0].connection])  # who was refused listens again
        await t.settle()
        for tab in refused:
            tab.join(tab.said)
            await asyncio.sleep(0)
        await t.settle()
        await t.advance(GHOST_SECONDS)
        await t.settle()
        check(t, tabs)


async def step(t, tabs, what, of, number):
    tab = tabs[of] if isinstance(of, int) and of < TABS else tabs[0]
    if what == "join" and not tab.connection.closed:
        tab.join(number)
        await asyncio.sleep(0)  # it begins
    elif what == "set":
        tab.said = number
        tab.presence.set({"n": number})
    elif what == "leave":
        tab.leave()
    elif what == "cut":
        t.cut(tab.connection)
    elif what in ("offline", "online"):
        if not tab.connection.closed:
            getattr(t, what)(tab.connection)
    elif what == "close":
        tab.connection.close()
        tab.wants = False
    elif what == "open" and tab.connection.closed:
        tab.open()
    elif what in ("bar", "admit"):
        (Rooms.barred.add if what == "bar" else Rooms.barred.discard)(of)
        await t.app.backends["rooms"].recheck()
    elif what == "title":
        Rooms.titles[of] = number
        await t.app.backends["rooms"].recheck()
    elif what == "advance":
        await t.advance(of)
    elif what in ("drop acks", "drop events", "duplicate"):
        getattr(t, what.replace(" ", "_"))(of)


def check(t, tabs):
    present = [tab for tab in tabs if tab.is_present]
    assert [tab.wants for tab in tabs] == [tab.is_present for tab in tabs], "who wants to be there is"
    keys = {tab.presence.me: tab for tab in present}
    # Tabs of a user are one member, those of nobody one each.
    assert len(keys) == len({tab.user or id(tab) for tab in present})
    for tab in tabs:
        seen = dict(tab.presence)
        if not tab.is_present:
            assert seen == {}
            continue
        assert seen.keys() == keys.keys(), "no ghost, and nobody is missing"
        for key, member in seen.items():
            its = [each for each in present if each.presence.me == key]
            assert member.connections == len(its)
            assert member.card == {"user": its[0].user, "title": Rooms.titles.get(its[0].user, 0)}
            assert member.state["n"] in [each.said for each in its]
    rooms = t.app.gateway.rooms
    assert len(rooms) == bool(present)
    if not present:
        assert all(tab.presence.me is None for tab in tabs)


@given(STEPS)
@settings(max_examples=examples(60))
def test_who_is_seen_is_there(steps):
    """Whatever happened: each tab that is present sees the members that the naive model has, and no ghost."""
    asyncio.run(play(steps))


@pytest.mark.parametrize(
    "steps",
    [
        [("join", 0), ("join", 1), ("cut", 1), ("advance", 11.0), ("leave", 0)],
        [("join", 0), ("join", 3), ("close", 3), ("advance", 3.0), ("open", 3), ("join", 3)],
        [("join", 2), ("bar", None), ("admit", None), ("join", 2)],
        [("join", 0), ("drop acks", 1), ("join", 1), ("drop events", 2), ("set", 0), ("set", 1)],
    ],
)
def test_schedules_that_are_worth_a_look(steps):
    """Each of them by itself."""
    asyncio.run(play(steps))
