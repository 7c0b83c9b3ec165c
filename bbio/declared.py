"""An object that a backend declares in its class body and opens for itself: the base of stores and logs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol, Self

from bbio.cluster import Heard
from bbio.errors import DefinitionError
from bbio.model.schema import Schema
from bbio.requests import Socket
from bbio.streams import Event
from bbio.view import public_body


class Publisher(Heard, Protocol):
    """Receiver of the events that a log has committed, and of its news about other processes.

    Its methods are called on the event loop, and return at once.

    Example:
        `self.publisher.doubt(["c:home"])`, in a log that hears of a write by another process in the channel `home`.
    """

    def event(self, event: Event, origin: Socket | None = None) -> None:
        """Send a committed event to the clients.

        Events of one stream should come in the order of their offsets. An event that was sent before is dropped; for an
        event that comes too early, `since` is asked for the ones before it.

        Parameters:
            event: the event, which `since` finds by now.
            origin: the writer's socket, None when there is none.
        """

    def doubt(self, streams: Iterable[str] | None = None) -> None:
        """Look at the log: another process or program may have written something.

        The log is asked a moment later, and clients get what they lack. A stream without listeners costs nothing.

        Parameters:
            streams: the names of the streams that were written to: `since` is asked for each. Where their tops are
                known, a mapping of names to positions: `since` is asked for those that are behind. None when nothing
                is known: `positions` is asked for all streams with listeners, and `since` for those that are behind.
        """

    def recheck_soon(self, channel: str | None = None) -> None:
        """Ask again who may listen: another process that serves the backend was told to.

        Parameters:
            channel: only the listeners of this channel ("" is the default channel); all when None.
        """

    # The names that these had before, for one version.

    def publish(self, event: Event, origin: Socket | None) -> None:
        """Send a committed event to the clients: the former name of `event`."""
        warnings.warn("publisher.publish is publisher.event now", DeprecationWarning, stacklevel=2)
        self.event(event, origin)

    def check(self, streams: Iterable[str] | None = None) -> None:
        """Look at the log: the former name of `doubt`."""
        warnings.warn("publisher.check is publisher.doubt now", DeprecationWarning, stacklevel=2)
        self.doubt(streams)


class Declared:
    """An object in a class body, of which every backend that is served opens a copy of its own.

    Attributes:
        backend: the backend instance.
        schema: what its models are, None when they may be anything.
        publisher: is told of every committed event.
    """

    backend: Any
    schema: Schema | None = None
    publisher: Publisher
    _publish: Callable[[Event, Socket | None], None]

    # The names that a class derived from this one must not take for something else.
    __bbio_own__: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base, names in _own(cls.__mro__[1:]):
            for name in names & vars(cls).keys():
                raise DefinitionError(f"{cls.__qualname__}.{name} hides {base.__name__}.{name}; give it another name")

    def open(self, backend: Any, publisher: Publisher) -> Self:
        """Return a copy of this declaration for one backend.

        Parameters:
            backend: the backend instance; its `name` is the default of table names.
            publisher: is to be told of every committed event, and of writes by others.

        Raises:
            DefinitionError: an attribute has a name that the base needs.
        """
        cls = type(self)
        for base, names in _own(cls.__mro__):
            hidden = names & vars(self).keys()
            if hidden and not hasattr(self, "_publish"):  # as it is in a copy that is opened again
                raise DefinitionError(
                    f"{cls.__qualname__}.{min(hidden)} is set before the start, and then hidden by "
                    f"{base.__name__}'s own; give it another name"
                )
        opened = copy.copy(self)
        opened.backend = backend
        opened.schema = getattr(backend, "schema", None)
        opened.publisher = publisher
        opened._publish = publisher.event
        return opened

    def encode(self, record: Any) -> bytes:
        """Return the JSON of a record for an event: no field of it that nobody may see.

        Parameters:
            record: an instance, a record, or whatever else a handler has answered.

        Raises:
            EncodingError: it holds what JSON does not have.
        """
        return public_body(self.schema, record)

    async def start(self) -> None:
        """Prepare for the first request: connect, create tables. Called once."""

    async def stop(self) -> None:
        """Finish the writes under way and let go of everything. Called once, after the last request."""


def _own(classes: Iterable[type]) -> Iterator[tuple[type, frozenset[str]]]:
    """Return the classes that have names of their own, with those."""
    for cls in classes:
        names = vars(cls).get("__bbio_own__")
        if names:
            yield cls, names
