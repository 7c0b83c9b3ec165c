"""The interface between the processes that serve a backend: they tell each other of its events."""

from bbio.cluster.broker import Broker, Heard
from bbio.cluster.control import Control, Notice
from bbio.cluster.local import Alone

__all__ = ["Alone", "Broker", "Control", "Heard", "Notice"]
