"""What all property tests share."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count nothing that they run: that takes two to four times as long as to run it.

    Whatever they find out depends on what is generated, so each line has a test beside them that runs it.
    """
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.no_cover)
