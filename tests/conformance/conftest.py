"""The suite's own assertions are shown as those of a test module are."""

import pytest

pytest.register_assert_rewrite("bbio.conformance")
