"""The limits of one client, in numbers."""

from __future__ import annotations

from typing import Any

import attrs

from bbio.errors import ConfigurationError
from bbio.stack.threads import MAX_THREADS


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ConfigurationError(f"Limits({attribute.name}={value!r}): it must be greater than 0")


@attrs.frozen(kw_only=True)
class Limits:
    """The limits of one application; `App(limits=Limits(deadline=5))` changes the ones that it names.

    Parameters:
        frame: bytes of one websocket message or one POST body.
        depth: levels to which JSON may be nested.
        channels: channels one socket may listen to.
        namespaces: backends one connection may join.
        auth: bytes of Socket.IO's `auth`, with which a client joins a backend, as JSON.
        bad_namespaces: refused joins after which a connection is closed.
        running: requests of one connection that run at once.
        queued: requests of one connection that wait; more are answered `Busy`.
        requests_per_second: requests of one connection in a second; more are answered `Busy`. Its other packets are
            counted alike; a connection that sends three times as many of either in a second is closed.
        replay: bytes of missed events in the answer to a listen; a client that missed more reads everything again.
        send_buffer: bytes of events that wait for a client which reads too slowly, before it is disconnected.
        reply: bytes of one answer; a request with a longer one is answered `BadRequest`.
        stall_time: seconds in which a client reads nothing of what waits for it, before it is disconnected.
        memory: bytes that all clients together may make the server hold: a quarter for histories and operations, an
            eighth for the latest events, an eighth for long lists that are being made, and half for data that waits;
            each address may hold half of the last two.
        connections: connections at once.
        connections_per_address: connections at once from one address.
        connecting: clients for which layers of `@on_connect` run at once; others wait. One address may have half.
        attachments: binary attachments of one event.
        connect_time: seconds a connection may stay without joining a backend.
        body_time: seconds a POST body may take to arrive.
        deadline: seconds a request may take; then it is answered `Timeout`.
        drain_time: seconds that running requests get when the server stops.
        threads: threads for layers that say `thread=True`.
        calls: calls of the server's own code that run at once, in all backends; more wait for their turn.
        call_depth: calls that may be within each other, as where a layer makes another call.
        bulk_events: records of one bulk write that listeners are told one by one; where there are more, they are told
            once, at its end, to read everything again.
        members: members of one channel; who would be one more is answered `Busy`.
        state: bytes of a member's state, as JSON.
        changes_per_second: changes of one socket's state in a channel that are told in a second, of which the latest
            counts; and joins in a second, after which it is answered `Busy`.
        grace: seconds that a member stays whose last connection was lost.
        message: bytes of a message's data, as JSON.
        messages_per_second: messages of one socket in a second; more are answered `Busy`.
        renewal_time: seconds in which a client may show a new token, once its identity has ended; then its connection
            is closed.

    Raises:
        ConfigurationError: a limit is not greater than 0.

    Example:
        >>> from bbio import App
        >>> App(limits=Limits(deadline=5.0)).limits.deadline
        5.0
    """

    frame: int = attrs.field(default=1_000_000, validator=_positive)
    depth: int = attrs.field(default=32, validator=_positive)
    channels: int = attrs.field(default=64, validator=_positive)
    namespaces: int = attrs.field(default=64, validator=_positive)
    auth: int = attrs.field(default=8_192, validator=_positive)
    bad_namespaces: int = attrs.field(default=20, validator=_positive)
    running: int = attrs.field(default=32, validator=_positive)
    queued: int = attrs.field(default=256, validator=_positive)
    requests_per_second: int = attrs.field(default=5_000, validator=_positive)
    replay: int = attrs.field(default=1 << 19, validator=_positive)
    send_buffer: int = attrs.field(default=1 << 20, validator=_positive)
    reply: int = attrs.field(default=16 << 20, validator=_positive)
    stall_time: float = attrs.field(default=3.0, validator=_positive)
    memory: int = attrs.field(default=160 << 20, validator=_positive)
    connections: int = attrs.field(default=20_000, validator=_positive)
    connections_per_address: int = attrs.field(default=1_000, validator=_positive)
    connecting: int = attrs.field(default=256, validator=_positive)
    attachments: int = attrs.field(default=16, validator=_positive)
    connect_time: float = attrs.field(default=8.0, validator=_positive)
    body_time: float = attrs.field(default=10.0, validator=_positive)
    deadline: float = attrs.field(default=30.0, validator=_positive)
    drain_time: float = attrs.field(default=4.0, validator=_positive)
    threads: int = attrs.field(default=MAX_THREADS, validator=_positive)
    calls: int = attrs.field(default=256, validator=_positive)
    call_depth: int = attrs.field(default=16, validator=_positive)
    bulk_events: int = attrs.field(default=1_000, validator=_positive)
    members: int = attrs.field(default=2_000, validator=_positive)
    state: int = attrs.field(default=1_024, validator=_positive)
    changes_per_second: int = attrs.field(default=10, validator=_positive)
    grace: float = attrs.field(default=10.0, validator=_positive)
    message: int = attrs.field(default=4_096, validator=_positive)
    messages_per_second: int = attrs.field(default=50, validator=_positive)
    renewal_time: float = attrs.field(default=300.0, validator=_positive)
