"""How many examples hypothesis tries: few in the profile "short", for what runs beside a long run on another Python."""

import os

IS_SHORT = os.environ.get("HYPOTHESIS_PROFILE") == "short"


def examples(count: int) -> int:
    """The number of examples instead of `count`."""
    return max(10, count // 10) if IS_SHORT else count
