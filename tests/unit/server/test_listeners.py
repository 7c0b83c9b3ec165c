"""Listeners: a stream is there for as long as somebody follows it."""

from tests.support.listeners import listening, publish, settled


async def test_a_ring_goes_with_the_last_follower(server):
    """Its bytes count no more."""
    ann = await listening(server)
    for _ in range(3):
        publish(server, server.store.written_by_others())
    await settled()
    listeners = server.subscribers.listeners
    rings = listeners.streams["c:"].rings
    assert rings.bytes > 0
    ann.leave()
    assert (listeners.streams, rings.bytes) == ({}, 0)


async def test_a_stream_stays_while_somebody_joins_it(server):
    """What is told meanwhile is kept for that client."""
    ann = await listening(server)
    listeners = server.subscribers.listeners
    streams = listeners.join(["c:"])
    ann.leave()
    assert list(listeners.streams.values()) == streams
    listeners.joined(streams)
    assert not listeners


async def test_listeners_are_those_of_channels(server):
    """What all channels share is followed by whoever listens to one: nobody is asked about twice."""
    ann, bob = await listening(server), await listening(server, version=0)
    assert {(socket, followed.name) for socket, followed in server.subscribers.listeners} == {
        (ann.socket, "c:"),
        (bob.socket, "c:"),
    }
