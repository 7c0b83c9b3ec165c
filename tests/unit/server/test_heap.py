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


def free_below_what_is_used(size):
    """Free so many bytes of the heap, of which the C library gives nothing back; return what is above them."""
    texts = [b"x" * 5_000 for _ in range(size // 5_000)]
    kept = texts[::100]
    del texts
    return kept


def test_what_is_free_goes_back():
    """Also below what is still used, and once."""
    own = Heap()
    own.trim()
    before = resident()
    kept = free_below_what_is_used(100 * MIB)
    assert resident() - before > 80 * MIB
    assert own.trim()
    assert resident() - before < 20 * MIB
    assert not own.trim()
    assert kept


def test_a_little_that_is_free_stays():
    """It is used again soon."""
    own = Heap()
    own.trim()
    assert free_below_what_is_used(4 * MIB)
    assert not own.trim()


async def test_a_trimmer_works_until_it_is_stopped(monkeypatch):
    """By itself, now and then."""
    monkeypatch.setattr(heap, "TRIM_SECONDS", 0.01)
    own = Heap()
    own.trim()
    before = resident()
    trimmer = HeapTrimmer(own)
    kept = free_below_what_is_used(100 * MIB)
    await until(lambda: resident() - before < 20 * MIB)
    trimmer.stop()
    assert "bbio-heap" not in {thread.name for thread in threading.enumerate()}
    assert kept


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
