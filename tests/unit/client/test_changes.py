"""The changes of a collection until somebody asks for them."""

from bbio.client import Changes
from bbio.client import changes as changes_module


def test_net_changes():
    """What came and went again did not happen."""
    changes = Changes()
    for key, before, after in (
        ("came", None, 1),
        ("came", 1, 2),
        ("same", 1, 1),
        ("changed", 1, 2),
        ("went", 1, 2),
        ("went", 2, None),
        ("back", 1, None),
        ("back", None, 2),
        ("gone", None, 1),
        ("gone", 1, None),
    ):
        changes.note(key, before, after)
    assert changes == Changes(added={"came"}, changed={"changed", "back"}, removed={"went"})


def test_many_changes_are_a_reset(monkeypatch):
    """Nobody has read them for long."""
    monkeypatch.setattr(changes_module, "NOTED_IDS", 2)
    changes = Changes()
    for key in (1, 2, 3):
        changes.note(key, None, key)
    assert changes == Changes(reset=True)
