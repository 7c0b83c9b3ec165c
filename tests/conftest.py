"""What all tests share: fixtures for browsers and servers, and profiles for hypothesis."""

from __future__ import annotations

import gc
import os

import pytest
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


def pytest_collection_finish() -> None:
    """Have Python look for garbage among what tests make alone, not again and again among thousands of tests."""
    gc.collect()
    gc.freeze()
