"""The views that an event concerns; tests/properties/test_view_index.py has random ones."""

from bbio.view import Filter, ViewIndex


def test_what_is_found_by_a_value_and_was_and_is_not_in_the_view():
    """The event is nothing to it."""
    index = ViewIndex[str]()
    index.add("open", Filter.read({"owner": "ann", "done": False}))
    assert index.transitions({"owner": "ann", "done": True}, {"owner": "ann", "done": True, "n": 1}) == []
    assert index.transitions({"owner": "ann", "done": True}, {"owner": "ann", "done": False}) == [("open", "create")]
