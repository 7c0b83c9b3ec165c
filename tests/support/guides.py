"""Pages of the documentation: the examples that are files, by the name in their first line."""

from __future__ import annotations

import re

_FILE = re.compile(
    r"^```(?:python|html)\n(?:# |<!-- )(\w+\.(?:py|html))(?: -->)?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def files(text: str) -> dict[str, str]:
    """Return the files that a page, or a part of one, shows; of a file that is shown again, the later version.

    Example:
        >>> files("```python\\n# app.py\\napp = App()\\n```\\n")
        {'app.py': 'app = App()\\n'}
    """
    return dict(_FILE.findall(text))
