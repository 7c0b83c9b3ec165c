"""Backends that follow another one: its records decide who may have which of theirs, as `follows` in a class says."""

from __future__ import annotations

from typing import Protocol

from bbio.streams import BACKEND_WIDE, Event, channel_stream
from bbio.was import change_of

# The streams of a followed backend of which each process hears everything, whoever listens.
HEARD = (channel_stream(None), BACKEND_WIDE)


class Follower(Protocol):
    """A backend that follows another one."""

    def ask_viewers(self, viewers: set[str] | None) -> None:
        """Ask soon what these users may have by now, known by the texts of their ids; None for everybody."""

    def ask_everywhere(self) -> None:
        """Ask soon what everybody may have by now, in all processes."""


class Followers:
    """The backends that follow one backend, each with the field that has the id of a user."""

    __slots__ = ("each",)

    def __init__(self) -> None:
        self.each: list[tuple[Follower, str]] = []

    def add(self, follower: Follower, field: str) -> None:
        """Add a backend.

        Parameters:
            follower: the backend.
            field: the field of the followed records that has the id of a user.
        """
        self.each.append((follower, field))

    def hear(self, event: Event) -> None:
        """Have those asked whom an event of the followed backend concerns; everybody where nobody knows whom."""
        change = change_of(event)
        for follower, field in self.each:
            if event.stream not in HEARD:
                follower.ask_everywhere()  # other processes hear of this stream only if somebody listens there
            elif change is None:
                follower.ask_viewers(None)
            else:
                named = [record.get(field) for record in change if record is not None]
                follower.ask_viewers({str(user) for user in named if user is not None})

    def hear_of_loss(self) -> None:
        """Have everybody asked: events are lost."""
        for follower, _ in self.each:
            follower.ask_viewers(None)
