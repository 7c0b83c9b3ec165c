"""What happens in the random schedules of tests/support/identities.py, and what is looked at in their end."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from bbio.builtin.sessions.sessions import key_of
from bbio.client import Collection, Handle
from bbio.client.session import BackendSession
from bbio.cluster.control import Inbox, Notice, check_notice
from bbio.errors import SyncError
from bbio.server.ephemeral import PresenceExchange
from tests.support.identities import (
    EVERY,
    GHOST_SECONDS,
    GROUPS,
    ROOMS,
    TABS,
    USERS,
    Bug,
    Credential,
    Tab,
    World,
)
from tests.support.sessions import http_request, until, value_of

# The tab of a client of the original library.
LEGACY = 4


class Schedule(World):
    """A world in which things happen at random.

    Parameters:
        kind, seed, path: see `World`.
    """

    def __init__(self, kind: str, seed: int, path: str) -> None:
        super().__init__(kind, seed, path)
        self.path = path
        self.tabs: list[Tab] = []
        self.collections: list[Collection] = []
        self.actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (40, self.write),
            (10, self.ask_anything),
            (10, self.emit),
            (10, self.say),
            (12, self.attend),
            (7, self.refresh),
            (4, self.log_in),
            (2, self.log_out),
            (5, self.revoke_user),
            (3, self.revoke_one),
            (3, self.revoke_channel),
            (6, self.change_rights),
            (4, self.pass_time),
            (4, self.overtake),
            (5, self.interrupt),
            (10, self.disturb),
            (12, self.advance),
            (2, self.look_for_ghosts),
        ]

    # Beginning

    async def open(self) -> None:
        """Open all tabs, each of which follows both rooms and is present in one."""
        for number, (user, browser) in enumerate(TABS):
            if browser not in self.jars:
                self.jars[browser] = None if user is None else await self.issue(user)
            connection = self.t.connect(jitter=0.1, deadline=5.0)
            tab = Tab(browser, connection, {})
            self.carry(tab, self.jars[browser])
            self.tabs.append(tab)
            self.secrets.add(connection._client.encode())
            if number == LEGACY:
                BackendSession("rooms", connection._join, self.t.clock, connection._settings, connection._client)
                continue
            for room in ROOMS:
                tab.handles[room] = handle = connection.backend("rooms", channel=f"room-{room}")
                self.follow(handle)
            self.ask(tab.handles[self.chance.choice(ROOMS)].presence.join({}))
        await self.idle()
        for room in ROOMS:
            self.send(self.tabs[LEGACY], "listen", f"room-{room}")
        await self.idle()

    def follow(self, handle: Handle) -> None:
        """Have a collection follow a room, unless one does."""

        async def follow() -> None:
            with suppress(SyncError):
                await handle.read()  # who was refused before is not any more
            self.collections.append(await handle.collection())

        if not handle._subscription.is_followed:
            self.ask(follow())

    async def idle(self) -> None:
        """Let run whatever can."""
        await self.done(lambda: self.is_asking or self.is_working)

    async def done(self, is_on: Callable[[], bool]) -> None:
        """Wait until something is over."""
        await rounds()
        async with asyncio.timeout(self.patience):
            while is_on():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        await rounds()

    @property
    def is_asking(self) -> bool:
        """Return whether the server asks again who may have what."""
        return any(each.busy for each in self.app.gateway.subscribers.values())

    @property
    def is_working(self) -> bool:
        """Return whether the server has a request; one that waits for the next batch of presence does not count."""
        exchanges = self.app.gateway.exchanges
        running = [each for each in exchanges.running if not isinstance(each, PresenceExchange)]
        return bool(running) or exchanges.delivery.busy

    def ask(self, work: Any) -> None:
        """Have a client wait for something, which may be refused."""

        async def asked() -> None:
            with suppress(SyncError):
                await work

        self.tasks.append(asyncio.ensure_future(asked()))

    def send(self, tab: Tab, event: str, *arguments: Any) -> None:
        """Send whatever a hostile client may."""
        connection = tab.connection
        if event == "presence":
            tab.behind_back.add(arguments[0])
        if "rooms" in connection._sockets:
            connection.emit(connection.sessions["rooms"], event, arguments, lambda *_: None)

    def tab(self) -> Tab:
        return self.chance.choice(self.tabs)

    def channel(self) -> tuple[str, str]:
        """A room, and its channel."""
        room = self.chance.choice(ROOMS)
        return room, f"room-{room}"

    def key(self) -> str:
        return f"key-{self.chance.randint(max(1, self.keys - 5), max(1, self.keys))}"

    # What clients do

    async def write(self) -> None:
        tab, (room, _), chance = self.tab(), self.channel(), self.chance
        handle = tab.handles.get(room)
        if handle is None or tab.connection.closed:
            return
        method = chance.choice(["create", "create", "patch", "patch", "update", "delete", "read"])
        if method == "create":
            self.ask(handle.create(self.record(room)))
        elif method in ("patch", "update"):
            self.ask(getattr(handle, method)({"id": self.key(), **self.record(room)}))
        elif method == "delete":
            self.ask(handle.delete(self.key()))
        else:
            self.ask(handle.read())

    async def ask_anything(self, tab: Tab | None = None) -> None:
        """Ask for what a client should not ask for: any room, whether it is listened to or not, after any end."""
        tab, (room, channel), chance = tab or self.tab(), self.channel(), self.chance
        kind = chance.choice(["list", "one", "create", "patch", "listen", "rev"])
        model: dict[str, Any] = {} if kind == "list" else {"id": self.key()}
        if kind == "listen":
            version = () if tab is self.tabs[LEGACY] else ({"v": 1, "messages": True},)
            self.send(tab, "listen", channel, *version)
        elif kind in ("list", "one"):
            self.send(tab, "sync", {"method": "read", "model": model, "options": {}, "channel": channel})
        else:
            method, model = ("create", {}) if kind == "create" else ("patch", model)
            asked = {"method": method, "model": {**model, **self.record(room)}, "options": {}, "channel": channel}
            self.send(tab, "sync", {**asked, "rev": 1} if kind == "rev" else asked)  # a conflict shows the record

    async def emit(self) -> None:
        """The server tells of a record, in one room or in all."""
        chance, runtime = self.chance, self.app.backends["rooms"]
        room, channel = chance.choice([*((room, f"room-{room}") for room in ROOMS), (EVERY, None)])
        how, model = chance.choice(["created", "updated", "deleted"]), {"id": self.key(), **self.record(room)}
        before = {"id": model["id"], **self.record(room)} if how == "updated" and chance.random() < 0.8 else None
        runtime.emit(how, model, channel=channel, before=before)

    async def say(self, tab: Tab | None = None) -> None:
        tab, (_, channel) = tab or self.tab(), self.channel()
        self.send(tab, "message", "typing", {"mark": self.mark("message", None, channel)}, channel)

    async def attend(self, tab: Tab | None = None) -> None:
        """Be present, say something else, or leave: as a client of bbio does, or as one that asks for the list."""
        tab, (room, channel), chance = tab or self.tab(), self.channel(), self.chance
        state = {"mark": self.mark("state", None, channel)}
        how = chance.choice(["join", "set", "leave", "list", "list"])
        if how == "list" or room not in tab.handles:
            self.send(tab, "presence", channel, {"state": state, "members": True})
        elif how == "join":
            self.ask(tab.handles[room].presence.join(state))
        elif how == "set":
            tab.handles[room].presence.set(state)
        else:
            tab.handles[room].presence.leave()

    async def refresh(self) -> None:
        """A new token on the connection that there is, perhaps a wrong one; a session gets another id."""
        tab, chance = self.tab(), self.chance
        credential = self.jars[tab.browser]
        if credential is None:
            return
        if self.sessions is not None:
            header = await self.sessions.rotate(http_request(credential.text))
            if header is not None:
                await self.replace(tab.browser, self.know(value_of(header), credential.user))
            return
        user = credential.user if chance.random() < 0.85 else chance.choice(USERS)
        known = self.of_user(user)
        fresh = chance.choice(known) if known and chance.random() < 0.25 else await self.issue(user)
        if user == credential.user and not fresh.is_over:
            self.jars[tab.browser] = fresh
        if tab.connection.connected:
            self.ask(tab.connection.authenticate(fresh.text))

    async def renew(self, tab: Tab) -> None:
        """Show a new token, and say nothing of it to the client of the tab."""
        credential = self.jars[tab.browser]
        if credential is not None:
            self.send(tab, "auth", {"token": (await self.issue(credential.user)).text})

    # Log-in and log-out

    async def log_in(self, user: str | None = None, browser: int | None = None) -> None:
        """Log in: as the same user or another one, while tabs are open."""
        chance = self.chance
        browser = self.tab().browser if browser is None else browser
        before = self.jars[browser]
        if user is None:
            user = chance.choice(USERS) if before is None or chance.random() < 0.2 else before.user
        if self.sessions is not None and before is not None:
            request = http_request(before.text)
            header = await self.sessions.begin({"user": {"id": user, "note": self.private()}}, request)
            await self.replace(browser, self.know(value_of(header), user))
        else:
            self.jars[browser] = await self.issue(user)
            await self.reopen(browser)

    async def log_out(self) -> None:
        browser = self.tab().browser
        credential = self.jars[browser]
        if credential is not None:
            if self.sessions is not None:
                await self.sessions.finish(http_request(credential.text))
            await self.replace(browser, None)

    def know(self, text: str, user: str) -> Credential:
        """Know a session that has come in the place of another."""
        credential = self.credentials[text] = Credential(text, user)
        self.secrets |= {text.encode(), key_of(text).encode()}
        return credential

    async def replace(self, browser: int, credential: Credential | None) -> None:
        """Have a browser show something else: of what it has shown a session has ended, a token goes on."""
        before, self.jars[browser] = self.jars[browser], credential
        await self.idle()
        if self.sessions is not None and before is not None:
            self.end([before])
        await self.reopen(browser)

    async def reopen(self, browser: int, *, everywhere: bool = False) -> None:
        """Have tabs of a browser connect again with what it has now; others go on with what they were opened with."""
        for tab in self.tabs:
            if tab.browser == browser:
                self.carry(tab, self.jars[browser])
                if everywhere or self.chance.random() < 0.6:
                    tab.connection.cut()
                    for handle in tab.handles.values():
                        self.follow(handle)
        if self.chance.random() < 0.7:
            await self.advance(2.0)

    # Revocations

    async def elsewhere(self, **fields: str | None) -> None:
        """Have another process tell of what it has revoked."""
        self.notices += 1
        text = check_notice(Notice(f"notice-{self.notices}", "revoke", **fields)).decode()
        notices, _ = Inbox("this one").take(1, [(1, "another", text)])
        for notice in notices:
            self.app._notices.hear(notice)

    async def revoke_user(self, user: str | None = None) -> None:
        """Log a user out everywhere; in a while it logs in again."""
        await self.come_back(await self.expel(user or self.chance.choice(USERS)))

    async def come_back(self, ended: list[Credential]) -> None:
        """Log in where these have ended, or not."""
        for browser, credential in self.jars.items():
            if credential in ended and self.chance.random() < 0.7:
                await self.log_in(credential.user, browser)

    async def expel(self, user: str) -> list[Credential]:
        """Log a user out everywhere, from here or from another process; return what has ended."""
        chance = self.chance
        ended = self.of_user(user)
        for credential in ended:
            credential.is_refused = True
        if self.kind == "sqlite" and chance.random() < 0.5:
            await self.delete_elsewhere("subject", user)
            await self.until_ended(ended)
        elif self.sessions is not None:
            await self.sessions.revoke(user={"id": user})
        elif chance.random() < 0.5:
            await self.app.revoke(user={"id": user})
        else:
            await self.elsewhere(user=user)
        await self.done(lambda: self.is_asking)
        self.end(ended)
        self.kill(lambda seat: seat.user == user)
        return ended

    async def revoke_one(self) -> None:
        """End one session."""
        credential = self.jars[self.tab().browser]
        if credential is None or self.sessions is None:
            return
        key = key_of(credential.text)
        credential.is_refused = True
        if self.kind == "sqlite" and self.chance.random() < 0.5:
            await self.delete_elsewhere("key", key)
            await self.until_ended([credential])
        else:
            await self.sessions.revoke(id=key)
        if self.chance.random() < 0.3:
            await self.app.revoke(session=key)
        await self.done(lambda: self.is_asking)
        self.end([credential])

    async def delete_elsewhere(self, column: str, value: str) -> None:
        """Delete sessions as another process does."""

        def delete() -> None:
            with closing(sqlite3.connect(self.path, timeout=self.patience, isolation_level=None)) as connection:
                connection.execute(f"DELETE FROM bbio_sessions WHERE {column} = ?", (value,))

        await asyncio.to_thread(delete)
        assert self.sessions is not None
        store, found = self.sessions.store, asyncio.get_running_loop().time() + self.patience
        while store._version != await store._run(store._reading, self.version_of, store):
            assert asyncio.get_running_loop().time() < found, "it is not seen what another process has ended"
            await asyncio.sleep(0.001)

    @staticmethod
    def version_of(store: Any) -> int:
        """The version of the file of sessions, as this process sees it."""
        (version,) = store._reader.execute("PRAGMA data_version").fetchone()
        return version

    async def until_ended(self, credentials: list[Credential]) -> None:
        """Wait until this process has heard of the end of sessions: who listens under one is told nothing more."""
        sockets = [socket for socket, seat in self.seats.items() if seat.credential in credentials]

        def is_on() -> bool:
            return any(socket.channels and not (socket.left or socket.is_suspended) for socket in sockets)

        with suppress(TimeoutError):  # then what is sent from now on shows it
            await until(lambda: not is_on(), self.patience)

    async def revoke_channel(self) -> None:
        """Throw somebody out of a room, and have all ask again."""
        room, channel = self.channel()
        user = self.chance.choice(USERS)
        if self.chance.random() < 0.5:
            self.t.release()
            self.admitting.clear()
            for tab in self.tabs:
                version = () if tab is self.tabs[LEGACY] else ({"v": 1, "messages": True},)
                self.send(tab, "listen", channel, *version)
                self.send(tab, "presence", channel, {"members": True})
            await rounds()
        self.rooms[user].discard(room)
        if self.chance.random() < 0.5:
            await self.app.revoke(channel=channel)
        else:
            await self.elsewhere(channel=channel, backend="rooms")
            await rounds()
        self.looked_at(lambda _: room)
        self.admitting.set()
        await self.idle()

    async def change_rights(self) -> None:
        """Change who may have what, and have it looked at."""
        chance = self.chance
        user = chance.choice(USERS)
        self.groups[user] = set(chance.sample(GROUPS, chance.choice([0, 1, 1, 2])))
        self.rooms[user] = set(chance.sample(ROOMS, chance.choice([1, 2, 2])))
        self.may_groups[user] |= self.groups[user]
        self.may_rooms[user] |= self.rooms[user]
        if chance.random() < 0.8:
            await self.app.backends["rooms"].recheck()
            await self.idle()
            self.may_groups = {name: set(groups) for name, groups in self.groups.items()}
            self.looked_at(lambda _: EVERY)

    def looked_at(self, which: Callable[[str], str]) -> None:
        """From now on nobody may have anything of rooms that it is not in: those that were looked at."""
        for user, rooms in self.rooms.items():
            lost = {room for room in self.may_rooms[user] - rooms if which(room) in (room, EVERY)}
            self.may_rooms[user] -= lost
            for seat in self.seats.values():
                if seat.user == user:
                    seat.present -= lost

    # Time, and the network

    async def pass_time(self, seconds: float | None = None) -> None:
        """Time passes: tokens and sessions end."""
        await self.idle()
        self.t.pass_time(self.chance.choice([5.0, 50.0, 320.0, 700.0]) if seconds is None else seconds)
        if self.sessions is not None:
            await self.idle()  # who was found before goes on
        over = [each for each in set(self.credentials.values()) if not each.is_over and await self.has_ended(each)]
        if self.sessions is not None:
            self.sessions._live._sooner.set()
            await self.until_ended(over)
        await self.idle()
        self.end(over)

    async def has_ended(self, credential: Credential) -> bool:
        if self.sessions is None:
            return credential.ends <= self.now()
        stored = await self.sessions.store.find(key_of(credential.text))
        return stored is None or min(stored.expires, stored.ends) <= self.now()

    async def overtake(self) -> None:
        """What a client shows is being looked up while its user is logged out everywhere."""
        tab, chance = self.tab(), self.chance
        credential = self.jars[tab.browser]
        if credential is None or tab is self.tabs[LEGACY]:
            return
        self.t.release()
        self.gate.clear()
        if self.sessions is None and chance.random() < 0.5 and tab.connection.connected:
            credential = await self.issue(credential.user)
            self.ask(tab.connection.authenticate(credential.text))
        else:
            self.carry(tab, credential)
            tab.connection.cut()
            tab.connection.connect()
        await rounds(chance.choice([3, 12]))
        revoking = asyncio.ensure_future(self.revoke_user(credential.user))
        await rounds(chance.choice([3, 12]))
        self.gate.set()
        await revoking

    async def interrupt(self) -> None:
        """Requests are under way while the user of their client is logged out everywhere."""
        chance = self.chance
        tab = self.tabs[LEGACY] if chance.random() < 0.25 else self.tab()
        credential = self.jars[tab.browser]
        if credential is None:
            return
        self.t.release()
        self.working.clear()
        asking = [self.ask_anything, self.ask_anything, self.say, self.attend]
        for _ in range(3):
            await chance.choice(asking if self.sessions is not None else [*asking, self.renew])(tab)
        await rounds()
        ended = await self.expel(credential.user)
        self.working.set()
        await self.idle()
        await self.come_back(ended)

    async def disturb(self) -> None:
        chance, t = self.chance, self.t
        tab = self.tab()
        network = ["cut", "cut", "hold", "release", "release", "offline", "online", "online"]
        how = chance.choice([*network, "acks", "twice"])
        if how == "acks":
            t.drop_acks(1, tab.connection)
        elif how == "twice":
            t.duplicate(2, tab.connection)
        else:
            getattr(t, how)(tab.connection)

    async def advance(self, seconds: float | None = None) -> None:
        self.t.release()  # no time passes while one is held
        await self.t.advance(self.chance.choice([0.1, 0.1, 2.0, 2.0, 11.0]) if seconds is None else seconds)

    # What is looked at

    async def look_for_ghosts(self) -> None:
        """A while after somebody is gone, nobody sees it any more."""
        self.t.release()
        await self.idle()
        await self.t.advance(GHOST_SECONDS)
        await self.idle()
        there = {
            room: {seat.user for socket, seat in self.seats.items() if not socket.left and room in seat.present}
            for room in ROOMS
        }
        places = {socket.sid: seat for socket, seat in self.seats.items() if not socket.left}
        for room in ROOMS:
            shown = self.app.gateway.rooms._rooms.get(("rooms", f"room-{room}"))
            for _, sid in () if shown is None else shown._places:
                if sid not in places or not places[sid].is_live or room not in places[sid].present:
                    self.wrong.append(f"a ghost in {room}: {places.get(sid)}")
            if shown is not None and not all(member.entries for member in shown._members.values()):
                self.wrong.append(f"a ghost in {room}, of whom no connection is there")
            for tab in self.tabs:
                if room in tab.handles and tab.connection.connected and f"room-{room}" not in tab.behind_back:
                    seen = {member.card["user"] for member in tab.handles[room].presence.values()}
                    if not seen <= there[room]:
                        self.wrong.append(
                            f"tab {self.tabs.index(tab)} sees {seen} in {room}, and {there[room]} are there"
                        )

    async def finish(self) -> None:
        """All is well again: who logs in gets what it may have, and nobody else does."""
        self.t.release()
        await self.advance(2.0)
        self.t.offline(*[tab.connection for tab in self.chance.sample(self.tabs, 3)])
        await self.look_for_ghosts()
        self.t.heal()
        await self.app.backends["rooms"].recheck()
        await self.idle()
        self.may_groups = {name: set(groups) for name, groups in self.groups.items()}
        self.looked_at(lambda _: EVERY)
        for browser, user in {browser: user for user, browser in TABS}.items():
            if user is not None:
                await self.log_in(user, browser)
            await self.reopen(browser, everywhere=True)
        await self.t.advance(GHOST_SECONDS)
        await self.idle()
        news = {(room, group): self.record(room, group) for room in ROOMS for group in GROUPS}
        for (room, _), record in news.items():
            self.app.backends["rooms"].emit("created", {"id": self.next_key(), **record}, channel=f"room-{room}")
        await self.idle()
        await self.t.advance(1.0)
        for tab in self.tabs:
            credential = self.jars[tab.browser]
            user = None if credential is None or credential.is_over else credential.user
            for (room, group), record in news.items():
                may = user is not None and room in self.rooms[user] and group in self.groups[user]
                is_told = record["text"].encode() in self.told[tab.connection]
                socket = tab.connection._sockets.get("rooms")
                listens = socket is not None and f"room-{room}" in socket.channels
                if tab.handles and is_told != (may and listens):
                    self.wrong.append(f"{user} in tab {self.tabs.index(tab)} is told of {group} in {room}: {is_told}")
        await self.look_for_ghosts()

    async def run(self, steps: int) -> None:
        """Run the schedule."""
        await self.open()
        weights, actions = zip(*self.actions, strict=True)
        for _ in range(steps):
            (action,) = self.chance.choices(actions, weights)
            await action()
            if self.chance.random() < 0.6:
                await asyncio.sleep(0)
            assert not self.wrong, self.wrong[:3]
        await self.finish()
        assert not self.wrong, self.wrong[:3]


async def rounds(count: int = 12) -> None:
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def run(
    kind: str, seed: int, path: str, steps: int, monkeypatch: pytest.MonkeyPatch, bug: Bug | None = None
) -> int:
    """Run one schedule; return how many marks were told to those who may have them.

    Parameters:
        kind: what says who clients are.
        seed: what the schedule is made of.
        path: a file for sessions.
        steps: how many steps it has.
        monkeypatch: undone for what is seen, for the time, and for the bug.
        bug: a bug to make in the code.
    """
    world = Schedule(kind, seed, path)
    with monkeypatch.context() as patched:
        world.spy(patched)
        times(world, patched)
        if bug is not None:
            world.patience = 1.0
            bug(world, patched)
        async with world.app.test(seed=seed) as world.t:
            try:
                await world.run(steps)
            finally:
                world.gate.set()
                world.working.set()
                world.admitting.set()
                for task in world.tasks:
                    task.cancel()
                await asyncio.gather(*world.tasks, return_exceptions=True)
    return sum(map(len, world.told.values()))


def times(world: World, patched: pytest.MonkeyPatch) -> None:
    """Have sessions go by the time of the test, and look often."""
    loop_time = asyncio.get_running_loop().time

    def ahead() -> float:
        return world.t._ahead if hasattr(world, "t") else 0.0

    now = SimpleNamespace(time=lambda: time.time() + ahead(), monotonic=lambda: loop_time() + ahead())
    for name in ("sessions", "identified", "live"):
        patched.setattr(f"bbio.builtin.sessions.{name}.time", now)
    patched.setattr("bbio.builtin.sessions.live.LEAST_COMPARE_SECONDS", 0.0)
    patched.setattr("bbio.builtin.sessions.sqlite.POLL_SECONDS", 0.002)
