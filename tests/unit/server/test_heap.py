"""The heap: what is free goes back to the system."""

import ctypes
import threading
from pathlib import Path

import pytest

from bbio import App
from bbio.server import heap
from bbio.server.heap import Heap, HeapTrimmer, heap_trimmer
from tests.support.listeners import until

MIB = 1 << 20


def resident():
    """The bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Filled:
    """A heap that is full: of what is freed the C library gives nothing back, as something above it is used."""

    def __init__(self, heap, size):
        self._texts = [b"x" * 5_000 for _ in range(size // 5_000)]
        self._kept = self._texts[::100]
        heap.trim()  # it sees now how little is free
        self.resident = resident()

    def empty(self):
        """Free it."""
        self._texts.clear()


def test_what_is_free_goes_back():
    """Also below what is still used, and once."""
    own = Heap()
    filled = Filled(own, 100 * MIB)
    filled.empty()
    assert filled.resident - resident() < 20 * MIB
    assert own.trim()
    assert filled.resident - resident() > 80 * MIB
    assert not own.trim()


def test_a_little_that_is_free_stays():
    """It is used again soon."""
    own = Heap()
    filled = Filled(own, 4 * MIB)
    filled.empty()
    assert not own.trim()


async def test_a_trimmer_works_until_it_is_stopped(monkeypatch):
    """By itself, now and then."""
    monkeypatch.setattr(heap, "TRIM_SECONDS", 0.01)
    own = Heap()
    filled = Filled(own, 100 * MIB)
    trimmer = HeapTrimmer(own)
    filled.empty()
    await until(lambda: filled.resident - resident() > 80 * MIB)
    trimmer.stop()
    assert "bbio-heap" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("library", [object(), TypeError()])
def test_another_c_library(monkeypatch, library):
    """Nothing is trimmed."""

    def load(name):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert heap_trimmer() is None


@pytest.mark.parametrize("trims", [True, False])
async def test_a_served_application_trims(monkeypatch, trims):
    """From its start to its end, where the C library can."""
    if not trims:
        monkeypatch.setattr("bbio.app.heap_trimmer", lambda: None)
    app = App()
    await app.start(host="127.0.0.1", port=0)
    assert ("bbio-heap" in {thread.name for thread in threading.enumerate()}) == trims
    await app.stop()
    assert "bbio-heap" not in {thread.name for thread in threading.enumerate()}
