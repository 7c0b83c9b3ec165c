"""Identities: one timer for all, and a heap that does not grow with renewals."""

import logging
import time

import pytest

from bbio.errors import StackError
from bbio.identity import Identity
from bbio.server.identities import Identities


class Peer:
    """What an index knows of a socket."""

    left = is_suspended = False
    identity = None

    class runtime:
        name = "notes"


async def test_one_timer_and_a_bounded_heap():
    """However often identities are renewed."""
    told = []
    now = time.time()
    index = Identities(lambda *_: told.append("warn"), lambda *_: told.append("end"), told.append, lambda: now)

    sockets = [Peer() for _ in range(3)]
    for _ in range(1_000):
        for socket in sockets:
            new = Identity("ann", expires=now + 100, warn=10)
            index.change(socket, socket.identity, new)
            socket.identity = new
    assert len(index._heap) < 200
    now += 95
    index.look()
    now += 10
    index.look()
    assert told == ["warn"] * 3 + ["end"] * 3
    index.close()


async def test_a_suspended_socket_waits_for_its_client_alone(caplog):
    """A request that began before says who it was: that changes nothing. What fails is logged, and holds up nobody."""
    now = [100.0]

    def fails(socket):
        raise OSError("gone")

    index = Identities(lambda *_: None, lambda *_: None, fails, lambda: now[0])
    socket = Peer()
    socket.is_suspended = True
    index.close_later(socket)
    index.change(socket, None, Identity("ann", "s", expires=101.0))
    assert index.of_user("ann") == index.of_session("s") == [socket]
    now[0] += 200
    index.look()
    assert not caplog.records
    now[0] += 101
    with caplog.at_level(logging.ERROR):
        index.look()
    assert "the end of an identity in notes failed" in caplog.text
    index.close()


def test_a_socket_that_has_left_is_not_found():
    index = Identities(lambda *_: None, lambda *_: None, lambda *_: None)
    socket = Peer()
    socket.left = True
    index.change(socket, None, Identity("ann", "s"))
    assert index.of_user("ann") == []
    index.close()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), True, "soon", 10**400])
def test_times_that_cannot_be_compared(wrong):
    """One of them would stop the ends of all."""
    for times in ({"expires": wrong}, {"warn": wrong}):
        with pytest.raises(StackError, match="finite"):
            Identity("ann", **times)
