"""What all tests share: fixtures for browsers and servers, and profiles for hypothesis."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from typing import Any

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings

from tests.support.examples import examples

# The assertions of the store suite are shown as those of a test module are.
pytest.register_assert_rewrite("bbio.conformance")

pytest_plugins = ["tests.support.browser", "tests.support.services", "tests.support.lists"]

# Examples bind sockets and run beside other tests, so how long one takes says nothing.
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("long", parent=settings.get_profile("ci"), derandomize=False, max_examples=2000)
settings.register_profile("short", parent=settings.get_profile("ci"), max_examples=examples(100))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure() -> None:
    """Have Ctrl-C end the processes that tests start, also where a shell has begun the tests in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Have Python look for garbage among what tests make alone, not again and again among thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Count nothing in a test that is marked `no_cover`, in a worker either.

    There coverage is measured three times over: from the start of the process, of what it imports, and of its tests.
    What pytest-cov pauses is the last of them, and then the one before it goes on.
    """
    paused: list[Coverage] = []
    if item.get_closest_marker("no_cover") is not None:
        while (running := Coverage.current()) is not None:
            running.stop()
            paused.append(running)
    try:
        return (yield)
    finally:
        for each in reversed(paused):
            each.start()
