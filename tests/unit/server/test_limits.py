"""Limits: they are positive, and documented as they are."""

import inspect
import re
from pathlib import Path

import attrs
import pytest

from bbio import ConfigurationError, Limits

DOCS = Path(__file__).parents[3] / "docs" / "limits.md"
UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20}
NAMES = [field.name for field in attrs.fields(Limits)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_greater_than_0(name, value):
    """The message names it."""
    with pytest.raises(ConfigurationError, match=name):
        Limits(**{name: value})


def test_every_limit_is_documented_with_its_default():
    """In the page about limits and in the class itself."""
    table = DOCS.read_text().split("| limit | default | meaning |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([\d.,]+) ?(\w*) \|", table, re.MULTILINE)
    told = {name: float(number.replace(",", "")) * UNITS[unit] for name, number, unit in rows}
    assert told == attrs.asdict(Limits())
    assert all(f"\n    {name}: " in inspect.getdoc(Limits) for name in NAMES)
