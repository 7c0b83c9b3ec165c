"""Followers of a stream, grouped by what they see."""

from __future__ import annotations

from types import SimpleNamespace

from bbio.server.viewers import Viewers
from bbio.streams import Event
from bbio.view import Filter, View


class Socket(SimpleNamespace):
    """A client, by its identity."""

    __hash__ = object.__hash__


def view(said):
    return View(None, frozenset(), Filter.read(said))


def test_equal_views_are_one_group_which_goes_with_the_last_of_them():
    """Whoever changes its view leaves the group of before; what it was told is counted anew."""
    viewers = Viewers("c:")
    sockets = {name: Socket(peer=name, told_under={}) for name in ("ann", "bob", "legacy")}
    ann, bob, legacy = sockets.values()
    viewers.join(ann, view({"a": 1}), 1)
    viewers.join(bob, view({"a": 1}), 1)
    viewers.join(legacy, view({"a": {"$in": [1]}}), 0)
    created = Event("c:", "9a0c", 1, "create", b'{"id":1,"a":1}', was=b"[null]")
    concerned = viewers.concerned(created)
    assert sorted((sorted([*group.version_1.values(), *group.legacy.values()]), kind) for group, kind in concerned) == [
        (["ann", "bob"], "create"),
        (["legacy"], "create"),
    ]
    for group, _ in concerned:
        group.told += 1
    assert [viewers.told(socket) for socket in (ann, bob)] == [1, 1]
    viewers.join(ann, view({"a": 1}), 1)
    assert [viewers.told(socket) for socket in (ann, bob)] == [0, 1]
    viewers.join(ann, view({"a": 2}), 1)
    viewers.leave(bob)
    viewers.leave(bob)
    assert [[*socket.told_under] for socket in (ann, bob, legacy)] == [["c:"], [], ["c:"]]
    assert ann.told_under["c:"] == view({"a": 2})
    assert [viewers.told(socket) for socket in (ann, bob)] == [0, None]
    assert [[*group.legacy.values()] for group, _ in viewers.concerned(created)] == [["legacy"]]
    assert viewers.concerned(Event("c:", "9a0c", 2, "update", b'{"id":1,"a":1}')) is None


def test_many_are_told_less_often_how_far_their_stream_has_come():
    """However many events there are, as what they are told costs as much as an event to each."""
    viewers = Viewers("c:")
    assert [viewers.is_due(now, 10.0) for now in (0.0, 0.0)] == [True, True]
    for number in range(20):
        viewers.join(Socket(peer=number, told_under={}), view({"a": number}), 1)
    assert [viewers.is_due(now, 10.0) for now in (0.0, 1.9, 2.0, 3.9)] == [True, False, True, False]
