"""Random schedules for identities: log-ins, refreshes, revocations, ends, lost connections; and a search of the wire.

What the server sends is looked at packet by packet. Each record, message, state and card carries a mark, so that it is
known to whom it may be sent, and each secret is a text of its own: tokens, cookies, the ids of sessions and clients.

- A socket whose identity has ended is sent nothing with a mark, and its requests are not answered.
- Any other socket is sent what its user may have: groups by `@visible`, rooms by `@channel`.
- No packet to anybody holds a secret.
- What a socket asks for after its end has no effect.
- Fifteen seconds after somebody is gone nobody sees it in the presence.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import attrs
import pytest

from bbio import App, Backend, Forbidden, Limits, Unauthorized, before, channel, message, presence, visible
from bbio.builtin import MemoryStore, Sessions, SQLiteSessions, Token
from bbio.builtin.sessions.sessions import key_of
from bbio.client import Handle
from bbio.protocol import decode
from bbio.server.connection import ClientSocket
from bbio.testing import Harness
from bbio.testing.network import FakeConnection
from tests.support.sessions import TroubledStore, value_of
from tests.support.tokens import SECRET, signed

USERS = ("ann", "bob", "cyd")
# The user of each tab: ann has two browsers, of which one has two tabs; the last tab is nobody's.
TABS = (("ann", 0), ("ann", 0), ("ann", 1), ("bob", 2), ("bob", 2), ("cyd", 3), (None, 4))
GROUPS, ROOMS = ("red", "blue"), ("a", "b")
# In place of a room: all of them.
EVERY = "*"
MARK = re.compile(rb"(?:secret|state|card|message)-\d+")
NEWS = (b'["synced","create"', b'["synced","update"', b'["synced","patch"', b'["synced","delete"', b'["message"')
# The ids of sockets, and what is in a session or a token besides the user's name.
INTERNAL = re.compile(rb"test-\d+|private-\d+")
# Seconds: how long a session lasts unused and at most; how long nobody who is gone is seen at most.
IDLE, LIFETIME, GHOST_SECONDS = 600.0, 3_000.0, 15.0
# Real seconds in which the end of a session is to be noticed; hardly any of them pass.
PATIENCE = 20.0
KINDS = ("opaque", "signed", "memory", "sqlite")
Bug = Callable[["World", pytest.MonkeyPatch], None]


@attrs.define(eq=False)
class Credential:
    """A token or a session.

    Parameters:
        text: what the client shows: the token, or the value of the cookie.
        user: whose it is.
        ends: when it ends, in seconds since 1970.
        is_refused: whether the application takes it no more.
        is_over: whether nobody may have anything for it: it was revoked, or has ended.
    """

    text: str
    user: str
    ends: float = float("inf")
    is_refused: bool = False
    is_over: bool = False


@attrs.define(eq=False)
class Seat:
    """A socket as the world sees it.

    Parameters:
        credential: what its client has shown last, of what the server has taken.
        is_dead: whether its identity has ended.
        present: the rooms that it is present in.
        was_served: whether a request of it was answered.
    """

    credential: Credential | None
    is_dead: bool = False
    present: set[str] = attrs.field(factory=set)
    was_served: bool = False

    @property
    def user(self) -> str | None:
        return None if self.credential is None else self.credential.user

    @property
    def is_live(self) -> bool:
        return self.credential is not None and not self.is_dead and not self.credential.is_over


@attrs.define(eq=False)
class Asked:
    """A request that has arrived.

    Parameters:
        event: its event.
        arguments: its other arguments.
        rights: the groups and rooms of its user then.
    """

    event: str
    arguments: tuple[Any, ...]
    rights: tuple[set[str], set[str]]


@attrs.define(eq=False)
class Tab:
    """A tab of a browser.

    Parameters:
        browser: the number of its browser, whose cookies its tabs share.
        connection: its connection.
        handles: its handles, by room.
        behind_back: the channels in which its server was told of a presence that the handle knows nothing of.
    """

    browser: int
    connection: FakeConnection
    handles: dict[str, Handle]
    behind_back: set[str] = attrs.field(factory=set)


class World:
    """One schedule.

    Parameters:
        kind: one of `KINDS`.
        seed: what the schedule is made of.
        path: a file for sessions.
    """

    t: Harness

    def __init__(self, kind: str, seed: int, path: str) -> None:
        self.kind = kind
        self.chance = chance = random.Random(f"{kind} {seed}")
        self.patience = PATIENCE
        self.groups = {user: set(chance.sample(GROUPS, chance.choice([1, 2]))) for user in USERS}
        self.rooms = {user: set(chance.sample(ROOMS, chance.choice([1, 2, 2]))) for user in USERS}
        # What users may have been sent since permissions were last looked at.
        self.may_groups = {user: set(groups) for user, groups in self.groups.items()}
        self.may_rooms = {user: set(rooms) for user, rooms in self.rooms.items()}
        self.credentials: dict[str, Credential] = {}
        self.jars: dict[int, Credential | None] = {}
        self.seats: dict[ClientSocket, Seat] = {}
        self.asked: dict[tuple[FakeConnection, int], Asked] = {}
        # The group and room of each mark; None for a group where the room is all that counts.
        self.marks: dict[bytes, tuple[str | None, str]] = {}
        # Marks of what was asked for in time, and of what was asked for after the end of who asked.
        self.valid: set[bytes] = set()
        self.void: set[bytes] = set()
        self.secrets: set[bytes] = set()
        self.told: dict[FakeConnection, set[bytes]] = defaultdict(set)
        self.wrong: list[str] = []
        self.numbers = self.keys = self.notices = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        # Requests of those who are known wait for it.
        self.working = asyncio.Event()
        self.working.set()
        # Who asks to listen waits for it, once it is known whether it may.
        self.admitting = asyncio.Event()
        self.admitting.set()
        self.sessions: Sessions | None = None
        self.app = self.served(path)

    # The application

    def served(self, path: str) -> App:
        """An application whose users have groups and rooms."""
        world = self

        class Rooms(Backend):
            middleware = [world.layer(path)]
            store = MemoryStore(per_channel=True, ids=world.next_key)

            @before
            async def known(self, req: Any) -> None:
                if req.user is None:
                    raise Unauthorized("log in first")
                await world.working.wait()
                if world.chance.random() < 0.3:
                    await asyncio.sleep(0)

            @channel("room-{room}")
            async def member(self, req: Any, room: str) -> None:
                is_member = room in world.rooms[req.user["id"]]
                if world.chance.random() < 0.3:
                    await asyncio.sleep(0)
                await world.admitting.wait()
                if not is_member:
                    raise Forbidden("members only")

            @visible(may_leave=True)
            async def scope(self, req: Any) -> Any:
                groups = sorted(world.groups[req.user["id"]])
                if world.chance.random() < 0.3:
                    await asyncio.sleep(0)
                return {"group": {"$in": groups}} if groups else False

            @presence
            def card(self, req: Any) -> Any:
                return {"user": req.user["id"], "mark": world.mark("card", None, req.channel)}

            @message("typing")
            async def typing(self, req: Any, data: Any) -> Any:
                await asyncio.sleep(0)
                return data

        return App(limits=Limits(changes_per_second=1_000)).serve(Rooms)

    def layer(self, path: str) -> Any:
        """What says who a client is."""
        if self.kind == "opaque":
            return Token(verify=self.verify, cache_seconds=self.chance.choice([0.0, 60.0]), warn=30.0)
        if self.kind == "signed":
            return Token(SECRET, algorithms=["HS256"], user=self.user_of, warn=30.0)
        options: dict[str, Any] = {"idle": IDLE, "lifetime": LIFETIME}
        if self.kind == "memory":
            store = TroubledStore()
            store.gate = self.gate
            self.sessions = Sessions(store, **options)
        else:
            self.sessions = SQLiteSessions(path, **options)
        return self.sessions

    async def verify(self, token: str) -> Any:
        """Say whose a token is, as it was when that was asked."""
        credential = self.credentials.get(token)
        is_good = credential is not None and not credential.is_refused
        if self.chance.random() < 0.5:
            await asyncio.sleep(0)
        await self.gate.wait()
        if credential is None or not is_good:
            return None
        return {"id": credential.user, "note": self.private()}, credential.ends

    def user_of(self, claims: dict[str, Any]) -> Any:
        """Say who a signed token is for; one that was revoked is for nobody."""
        credential = self.credentials.get(claims["jti"])
        is_good = credential is not None and not credential.is_refused
        return {"id": claims["sub"], "note": self.private()} if is_good else None

    def now(self) -> float:
        return self.t.time()

    # Marks

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def next_key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    def private(self) -> str:
        return f"private-{self.number()}"

    def mark(self, kind: str, group: str | None, channel: str) -> str:
        """A text for what those of a group and a room may have."""
        mark = f"{kind}-{self.number()}"
        self.marks[mark.encode()] = group, channel.removeprefix("room-")
        return mark

    def record(self, room: str, group: str | None = None) -> dict[str, Any]:
        group = group or self.chance.choice(GROUPS)
        return {"group": group, "text": self.mark("secret", group, room)}

    def rights(self, user: str | None) -> tuple[set[str], set[str]]:
        """The groups and the rooms that a user may have been sent something of."""
        return (set(), set()) if user is None else (set(self.may_groups[user]), set(self.may_rooms[user]))

    # Credentials

    async def issue(self, user: str) -> Credential:
        """Log a user in: a new token, or a new session."""
        if self.sessions is not None:
            header = await self.sessions.begin({"user": {"id": user, "note": self.private()}, "note": self.private()})
            credential = Credential(value_of(header), user)
            self.secrets.add(key_of(credential.text).encode())
        else:
            ends = self.now() + self.chance.choice([40.0, 100.0, 1_000.0])
            name = secrets.token_hex(8)
            token = f"token-{name}" if self.kind == "opaque" else signed(sub=user, jti=name, exp=ends)
            credential = Credential(token, user, ends)
            self.credentials[name] = credential
        self.credentials[credential.text] = credential
        self.secrets.add(credential.text.encode())
        return credential

    def carry(self, tab: Tab, credential: Credential | None) -> None:
        """Have a tab show this when it connects the next time."""
        connection = tab.connection
        if self.sessions is not None:
            cookie = "" if credential is None else f"__Host-bbio_session={credential.text}"
            headers = connection._headers.copy()
            headers["Cookie"] = cookie
            connection._headers = type(connection._headers)(headers)
        else:
            connection.auth = None if credential is None else {"token": credential.text}

    def shown(self, connection: FakeConnection) -> Credential | None:
        """What a connection is opened with."""
        if self.sessions is not None:
            text = connection._headers.get("Cookie", "").partition("=")[2]
        else:
            text = (connection.auth or {}).get("token", "")
        return self.credentials.get(text)

    def end(self, of: Collection[Credential]) -> None:
        """From now on nobody may have anything for these."""
        for credential in of:
            credential.is_refused = credential.is_over = True
        self.kill(lambda seat: seat.credential in of)

    def kill(self, concerns: Callable[[Seat], bool]) -> None:
        """From now on these sockets may have nothing."""
        for socket, seat in self.seats.items():
            if not socket.left and seat.credential is not None and concerns(seat):
                seat.is_dead = True
                seat.present.clear()

    def of_user(self, user: str) -> list[Credential]:
        return [each for each in set(self.credentials.values()) if each.user == user]

    # What is sent

    def look(self, connection: FakeConnection, socket: ClientSocket | None, text: bytes, asked: Asked | None) -> None:
        """Look at a packet on its way to a client."""
        seat = None if socket is None else self.seats.get(socket)
        to = f"to {connection!r} of {seat}: {text!r}"
        if INTERNAL.search(text) or any(secret in text for secret in self.secrets):
            self.wrong.append(f"a secret {to}")
        marks = MARK.findall(text)
        if not self.void.isdisjoint(marks):
            self.wrong.append(f"asked for after the end, {to}")
        if seat is None or not seat.is_live:
            is_answer = asked is not None and asked.event in ("sync", "listen", "message", "presence", "auth")
            is_result = is_answer and b'"error"' not in text and not is_leave(asked)
            if marks or text.startswith(NEWS) or is_result:
                self.wrong.append(f"after the end, {to}")
            return
        self.told[connection] |= set(marks)
        groups, rooms = self.rights(seat.user)
        if asked is not None and asked.event == "sync":
            groups, rooms = groups | asked.rights[0], rooms | asked.rights[1]
        for mark in marks:
            group, room = self.marks[mark]
            if (room != EVERY and room not in rooms) or (group is not None and group not in groups):
                self.wrong.append(f"{mark!r} of {group} in {room}, with {groups} and {rooms}, {to}")

    def take_auth(self, socket: ClientSocket, asked: Asked) -> None:
        """A socket was renewed with another token."""
        seat = self.seats[socket]
        credential = self.credentials.get(asked.arguments[0]["token"])
        if credential is None or credential.is_over or (seat.was_served and credential.user != seat.user):
            self.wrong.append(f"{seat} was renewed with {credential}")
        elif seat.is_dead and credential is seat.credential:
            self.wrong.append(f"{seat} was renewed with what had ended")
        seat.credential, seat.is_dead = credential, False

    def answered(self, socket: ClientSocket, asked: Asked, text: bytes) -> None:
        """Note what a request has come to."""
        if b'"error"' in text:
            return
        if asked.event == "auth":
            self.take_auth(socket, asked)
        elif asked.event != "unlisten":
            self.seats[socket].was_served = True
        if asked.event == "presence":
            rooms, room = self.seats[socket].present, asked.arguments[0].removeprefix("room-")
            rooms.discard(room) if is_leave(asked) else rooms.add(room)

    def spy(self, patched: pytest.MonkeyPatch) -> None:
        """See who joins, what arrives and what is sent."""
        world = self
        join, leave, receive = Harness.join, Harness.leave, FakeConnection._receive
        tell, ack = FakeConnection.tell, FakeConnection.ack

        def spied_join(harness: Harness, runtime: Any, connection: Any, peer: FakeConnection) -> ClientSocket:
            socket = join(harness, runtime, connection, peer)
            world.seats[socket] = Seat(world.shown(peer))
            return socket

        def spied_leave(harness: Harness, socket: ClientSocket, reason: str) -> None:
            world.seats[socket].present.clear()
            leave(harness, socket, reason)

        def spied_receive(connection: FakeConnection, name: str, event: str, ack_id: int, text: str) -> None:
            seat = world.seats[connection._sockets[name]]
            world.asked[connection, ack_id] = Asked(event, tuple(decode(text)[1:]), world.rights(seat.user))
            marks = set(MARK.findall(text.encode()))
            if seat.is_live:
                world.valid |= marks
                world.void -= marks
            else:
                world.void |= marks - world.valid
            receive(connection, name, event, ack_id, text)

        def spied_tell(connection: FakeConnection, namespace: str, text: bytes) -> None:
            world.look(connection, connection._sockets.get(namespace[1:]), text, None)
            tell(connection, namespace, text)

        def spied_ack(connection: FakeConnection, socket: ClientSocket, ack_id: int, arguments: bytes) -> None:
            asked = world.asked.get((connection, ack_id))
            if socket.connection is connection._connection:
                if asked is not None and asked.event == "auth":
                    world.answered(socket, asked, arguments)
                world.look(connection, socket, arguments, asked)
                if asked is not None and asked.event != "auth":
                    world.answered(socket, asked, arguments)
            ack(connection, socket, ack_id, arguments)

        patched.setattr(Harness, "join", spied_join)
        patched.setattr(Harness, "leave", spied_leave)
        patched.setattr(FakeConnection, "_receive", spied_receive)
        patched.setattr(FakeConnection, "tell", spied_tell)
        patched.setattr(FakeConnection, "ack", spied_ack)


def is_leave(asked: Asked | None) -> bool:
    """Return whether a request asks to be present no more."""
    return asked is not None and asked.event == "presence" and asked.arguments[1] is None
