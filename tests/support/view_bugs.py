"""Deliberate bugs, each made in the real code: what the rules of views are for. Without a rule a schedule fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bbio import protocol
from bbio.client.deltas import Deltas, News
from bbio.client.deltas import patched as patched_with
from bbio.client.replica import Replica
from bbio.client.tracker import Meta, Tracker
from bbio.protocol import decode
from bbio.server.exchange import SyncExchange
from bbio.server.permissions import Permissions
from bbio.store import Records
from bbio.streams import Event
from bbio.view import EVERYTHING, Filter, Scope, View
from bbio.was import RecordChange, change_of
from tests.support.views import Bug, World

CHANGES = ("bbio.server.viewers.change_of", "bbio.view.view.change_of")
TRANSITIONS = ("bbio.view.filter.transition", "bbio.view.index.transition")


class Same:
    """Equal to everything."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def no_digest(world: World, patched: pytest.MonkeyPatch) -> None:
    """A place is resumed from, whatever view it was reached with."""
    patched.setattr(protocol, "read_digest", lambda since, stream: Same())


def before_now(world: World, patched: pytest.MonkeyPatch) -> None:
    """How a record was is taken from the store, as it is by now."""

    def now(event: Event) -> RecordChange | None:
        change = change_of(event)
        assert change is not None
        key = (change.after or change.before or {})["id"]
        models = world.app.backends["issues"].store._models(None)  # type: ignore[union-attr]
        return RecordChange(decode(models[key][1]) if key in models else None, change.after)

    for place in CHANGES:
        patched.setattr(place, now)


def _transitions(patched: pytest.MonkeyPatch, changed: Callable[[bool, bool, Any], Any]) -> None:
    for place in TRANSITIONS:
        patched.setattr(
            place,
            lambda was, is_now: changed(was, is_now, "update" if was and is_now else "create" if is_now else "delete"),
        )


def no_leave(world: World, patched: pytest.MonkeyPatch) -> None:
    """Nobody is told that a record has left a view."""
    _transitions(patched, lambda was, is_now, kind: kind if is_now else None)


def leak_out(world: World, patched: pytest.MonkeyPatch) -> None:
    """Whoever is asked about an event is told of a deletion, though the record never was in its view."""
    _transitions(patched, lambda was, is_now, kind: kind)


def no_suspend(world: World, patched: pytest.MonkeyPatch) -> None:
    """Whose view has changed is told to listen again, and of events under the view of before until then."""

    def suspend(permissions: Permissions, socket: Any, stream: str) -> None:
        followed = permissions._listeners.streams.get(stream)
        if followed is not None and socket in followed.version_1:
            permissions._delivery.send([socket.peer], permissions._runtime.namespace, protocol.resync(stream))

    patched.setattr(Permissions, "_suspend", suspend)


def blind_write(world: World, patched: pytest.MonkeyPatch) -> None:
    """A write changes what its client may not see."""
    plan = Records.plan

    def blind(records: Records, req: Any, *args: Any) -> Any:
        scope = req.scope
        req.scope = None if scope is None else Scope(EVERYTHING, scope.kept)
        try:
            return plan(records, req, *args)
        finally:
            req.scope = scope

    patched.setattr(Records, "plan", blind)


def no_rev(world: World, patched: pytest.MonkeyPatch) -> None:
    """A client takes whatever comes, also what is older than what it has."""

    def accept(replica: Replica, key: Any, model: Any, rev: Any) -> bool:
        replica._know(key, model, rev)
        return True

    patched.setattr(Replica, "accept", accept)


def blind_delta(world: World, patched: pytest.MonkeyPatch) -> None:
    """A client makes a change of whatever it has of the record, be it another revision or nothing."""

    def now(deltas: Deltas, news: News) -> Any:
        known = [each.model for each in deltas._owner.known(news.model["id"]) if each.model is not None]
        assert news.meta is not None
        held = {**dict.fromkeys(news.meta.append, ""), **(known or [{}])[0]}
        return patched_with(held, news.model, news.meta)

    patched.setattr(Deltas, "now", now)


def late_ack(world: World, patched: pytest.MonkeyPatch) -> None:
    """The answer to a write says what a record is, also where the stream has told what came after it."""
    patched.setattr(Tracker, "passed", lambda tracker, meta, retried: False)


def ack_now(world: World, patched: pytest.MonkeyPatch) -> None:
    """The answer to a write is judged by what its client may see at the moment, not by the view it is told under."""
    reply = SyncExchange._reply_in_view

    def judged(exchange: SyncExchange, body: bytes, commit: Any) -> None:
        socket, stream = exchange.socket, commit.event.stream
        now = View(None, frozenset(), Filter.read(world.scope(exchange.req.user["id"])))
        view, socket.told_under[stream] = socket.told_under.get(stream), now
        try:
            reply(exchange, body, commit)
        finally:
            if view is None:
                del socket.told_under[stream]
            else:
                socket.told_under[stream] = view

    patched.setattr(SyncExchange, "_reply_in_view", judged)


def no_count(world: World, patched: pytest.MonkeyPatch) -> None:
    """A client does not compare how many events it was told."""
    at = Tracker._at

    def uncounted(tracker: Tracker, meta: Meta) -> Any:
        position = tracker._positions.get(meta.stream)
        return at(tracker, meta if position is None else meta._replace(told=position.told))

    patched.setattr(Tracker, "_at", uncounted)


BUGS: tuple[Bug, ...] = (
    no_digest,
    before_now,
    no_leave,
    leak_out,
    no_suspend,
    blind_write,
    no_rev,
    blind_delta,
    late_ack,
    ack_now,
    no_count,
)
