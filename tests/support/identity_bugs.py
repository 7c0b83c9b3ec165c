"""Deliberate bugs, each made in the real code: what protects those who are thrown out, and all from each other.

Without a protection a schedule of tests/support/identity_schedules.py fails.
"""

from __future__ import annotations

from typing import Any

import pytest

from bbio import protocol
from bbio.builtin.sessions.identified import CookieSessions, Lookup
from bbio.builtin.sessions.live import LiveSessions
from bbio.builtin.tokens.opaque import OpaqueTokens
from bbio.identity import Identity
from bbio.server.authenticating import AuthExchange
from bbio.server.connection import ClientSocket
from bbio.server.ephemeral import AnsweredExchange
from bbio.server.exchange import SyncExchange
from bbio.server.gateway import Gateway
from bbio.server.identities import Identities
from bbio.server.listening import ListenExchange
from bbio.server.notices import Notices
from bbio.server.permissions import Permissions
from bbio.server.presence import rooms
from bbio.server.presence.room import Room
from bbio.server.presence.rooms import Rooms
from bbio.stack.channels import ChannelRules
from tests.support.identities import Bug, World


class Same:
    """Equal to everything."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def _as_if_live(patched: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Have a method take each socket for one whose identity goes on."""
    original = getattr(owner, name)

    def method(self: Any, *args: Any) -> Any:
        socket = args[0] if isinstance(args[0], ClientSocket) else self.socket
        was, socket.is_suspended = socket.is_suspended, False
        try:
            return original(self, *args)
        finally:
            socket.is_suspended = was

    patched.setattr(owner, name, method)


def told_on(world: World, patched: pytest.MonkeyPatch) -> None:
    """Whose identity has ended is told of events as before."""
    patched.setattr(Permissions, "pause", lambda permissions, socket: None)


def asks_on(world: World, patched: pytest.MonkeyPatch) -> None:
    """Whose identity has ended may ask on."""
    _as_if_live(patched, Gateway, "_sync")


def listens_on(world: World, patched: pytest.MonkeyPatch) -> None:
    """Whose identity has ended may listen."""
    _as_if_live(patched, Gateway, "_listen")
    _as_if_live(patched, ListenExchange, "_go_live")


def attends_on(world: World, patched: pytest.MonkeyPatch) -> None:
    """Whose identity has ended may be present, and so see who is."""
    _as_if_live(patched, Gateway, "_presence")
    _as_if_live(patched, AnsweredExchange, "check_listening")


def talks_on(world: World, patched: pytest.MonkeyPatch) -> None:
    """Whose identity has ended may send messages."""
    _as_if_live(patched, Gateway, "_message")
    _as_if_live(patched, AnsweredExchange, "check_listening")


def talks_late(world: World, patched: pytest.MonkeyPatch) -> None:
    """A message is told whose sender was thrown out while it was looked at."""
    _as_if_live(patched, AnsweredExchange, "check_listening")


def answered_late(world: World, patched: pytest.MonkeyPatch) -> None:
    """What was asked for before the end is answered after it."""
    after_end = SyncExchange._after_end

    def answer(exchange: SyncExchange, res: Any) -> Any:
        if res.failure is None:
            exchange.reply(protocol.reply(protocol.encode(res.result)))
        return res.failure or after_end(exchange, res)

    patched.setattr(SyncExchange, "_after_end", answer)


def takes_any_user(world: World, patched: pytest.MonkeyPatch) -> None:
    """A connection goes on as another user's, with what it follows."""
    patched.setattr(Identity, "is_of_same_user", lambda identity, other: True)


def old_answers(world: World, patched: pytest.MonkeyPatch) -> None:
    """What was known of a token before its user was thrown out is believed on."""
    check = OpaqueTokens.check

    async def believe(tokens: OpaqueTokens, token: str, now: float, revocations: int = 0) -> Any:
        return await check(tokens, token, now)

    patched.setattr(OpaqueTokens, "check", believe)


def late_answers(world: World, patched: pytest.MonkeyPatch) -> None:
    """Nothing tells a look-up of a token that somebody was thrown out meanwhile."""
    patched.setattr(ClientSocket, "revocations", property(lambda socket: 0))


def renewed_late(world: World, patched: pytest.MonkeyPatch) -> None:
    """A refresh that was under way when its user was thrown out lets it in again."""

    async def work(exchange: AuthExchange) -> None:
        tried = exchange.socket.try_auth(exchange.auth)
        failure = await exchange._try(tried)
        if failure is None:
            await exchange._take(tried)
        else:
            exchange.refuse(failure)
        exchange.finish()

    patched.setattr(AuthExchange, "work", work)


def admitted_late(world: World, patched: pytest.MonkeyPatch) -> None:
    """Who asked to listen before permissions changed is let in after it."""
    join = ListenExchange._join

    async def admit(exchange: ListenExchange, subscribers: Any, rechecks: Any) -> None:
        await join(exchange, subscribers, Same())  # type: ignore[arg-type]

    patched.setattr(ListenExchange, "_join", admit)


def any_room(world: World, patched: pytest.MonkeyPatch) -> None:
    """No rule is asked whom it lets into a channel."""

    async def ask(rules: ChannelRules, req: Any) -> None:
        return None

    patched.setattr(ChannelRules, "ask", ask)


def stays_in(world: World, patched: pytest.MonkeyPatch) -> None:
    """Who may not listen any more is not let go of."""
    patched.setattr(Permissions, "_drop", lambda permissions, *args: None)


def never_ends(world: World, patched: pytest.MonkeyPatch) -> None:
    """Nobody looks whether a token has ended."""
    patched.setattr(Identities, "look", lambda identities: None)


def deaf(world: World, patched: pytest.MonkeyPatch) -> None:
    """What another process has revoked is not revoked here."""
    patched.setattr(Notices, "hear", lambda notices, notice: None)


def remembers(world: World, patched: pytest.MonkeyPatch) -> None:
    """A session that has ended is believed on for as long as it is remembered."""
    patched.setattr(CookieSessions, "_forget_ended", lambda sessions, ids: None)


def found_late(world: World, patched: pytest.MonkeyPatch) -> None:
    """A session that ends while it is being looked up is believed."""

    async def find(sessions: CookieSessions, value: str, lookup: Lookup) -> Any:
        return await sessions._find(value)

    patched.setattr(CookieSessions, "_find_surely", find)


def session_goes_on(world: World, patched: pytest.MonkeyPatch) -> None:
    """Connections go on whose sessions have ended."""
    patched.setattr(LiveSessions, "end", lambda live, ids: None)


def overlooked(world: World, patched: pytest.MonkeyPatch) -> None:
    """What was asked for under a session is answered after its end to who listens to nothing."""
    patched.setattr(Identities, "of_session", lambda identities, session: [])


def ghosts(world: World, patched: pytest.MonkeyPatch) -> None:
    """Who was thrown out is seen on."""
    left = Rooms.left

    def stay(rooms: Rooms, socket: ClientSocket, *, lingers: bool) -> None:
        if not socket.is_suspended:
            left(rooms, socket, lingers=lingers)

    patched.setattr(Rooms, "left", stay)


def lingers(world: World, patched: pytest.MonkeyPatch) -> None:
    """A member whose connection was lost is seen for ever."""
    remove = Room.remove

    def keep(room: Room, place: Any, *, lingers: bool) -> None:
        room._grace = 10_000.0
        remove(room, place, lingers=lingers)

    patched.setattr(Room, "remove", keep)


def tells_sid(world: World, patched: pytest.MonkeyPatch) -> None:
    """The key of a member is the id of its socket."""
    subject_of, sockets = "bbio.server.presence.rooms.subject_of", []
    original = rooms.subject_of

    def spied(req: Any, socket: ClientSocket) -> Any:
        sockets.append(socket.sid)
        return original(req, socket)

    patched.setattr(subject_of, spied)
    patched.setattr("bbio.server.presence.rooms.member_key", lambda *_: sockets[-1])


def tells_client(world: World, patched: pytest.MonkeyPatch) -> None:
    """The answer to a listen says the client's own id, with which its writes could be repeated."""

    def whole(client: str) -> str:
        return client

    whole.__wrapped__ = whole  # type: ignore[attr-defined]
    patched.setattr("bbio.server.listening.public_part", whole)


BUGS: tuple[Bug, ...] = (
    told_on,
    asks_on,
    listens_on,
    attends_on,
    talks_on,
    talks_late,
    answered_late,
    takes_any_user,
    old_answers,
    late_answers,
    renewed_late,
    admitted_late,
    any_room,
    stays_in,
    never_ends,
    deaf,
    remembers,
    found_late,
    session_goes_on,
    overlooked,
    ghosts,
    lingers,
    tells_sid,
    tells_client,
)
# The kind and the seed of a schedule that finds each.
FOUND_BY = {
    "told_on": ("opaque", 0),
    "asks_on": ("opaque", 17),
    "listens_on": ("opaque", 1),
    "attends_on": ("opaque", 5),
    "talks_on": ("opaque", 1),
    "talks_late": ("opaque", 5),
    "answered_late": ("opaque", 5),
    "takes_any_user": ("opaque", 1),
    "old_answers": ("opaque", 1),
    "late_answers": ("opaque", 1),
    "renewed_late": ("opaque", 3),
    "admitted_late": ("opaque", 11),
    "any_room": ("memory", 0),
    "stays_in": ("memory", 0),
    "never_ends": ("opaque", 7),
    "deaf": ("opaque", 0),
    "remembers": ("memory", 2),
    "found_late": ("memory", 16),
    "session_goes_on": ("memory", 0),
    "overlooked": ("memory", 28),
    "ghosts": ("opaque", 0),
    "lingers": ("opaque", 15),
    "tells_sid": ("opaque", 0),
    "tells_client": ("opaque", 0),
}
