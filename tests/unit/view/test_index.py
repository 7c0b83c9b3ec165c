"""The views that an event concerns; tests/properties/test_view_index.py has random ones."""

from bbio.view import Filter, ViewIndex


def test_what_is_found_by_a_value_and_was_and_is_not_in_the_view():
    """The event is nothing to it."""
    index = ViewIndex[str]()
    index.add("open", Filter.read({"owner": "ann", "done": False}))
    assert index.transitions({"owner": "ann", "done": True}, {"owner": "ann", "done": True, "n": 1}) == []
    assert index.transitions({"owner": "ann", "done": True}, {"owner": "ann", "done": False}) == [("open", "create")]


def test_a_view_of_all_records_with_one_of_its_values_is_concerned_by_these():
    """However many of them a record has: the event is one thing to each view."""
    index = ViewIndex[str]()
    index.add("both", Filter.read({"$or": [{"owner": "ann"}, {"project": {"$in": [3, 5]}}]}))
    index.add("part", Filter.read({"$or": [{"owner": "ann"}, {"project": 3, "done": True}]}))
    index.add("tagged", Filter.read({"tags": {"$contains": "x"}}))
    ann = {"owner": "ann", "project": 7}
    assert sorted(index.transitions(ann, {**ann, "n": 1})) == [("both", "update"), ("part", "update")]
    assert sorted(index.transitions(ann, {**ann, "owner": "bob", "project": 5})) == [
        ("both", "update"),
        ("part", "delete"),
    ]
    assert index.transitions({"project": 3}, {"project": 4}) == [("both", "delete")]
    assert index.transitions({"project": 3}, {"project": 5}) == [("both", "update")]
    assert sorted(index.transitions(None, {**ann, "project": 3})) == [("both", "create"), ("part", "create")]
    assert sorted(index.transitions({"tags": ["x"], "project": 3}, None)) == [("both", "delete"), ("tagged", "delete")]


def test_values_in_objects_are_found_like_others():
    """By the path to them."""
    index = ViewIndex[str]()
    index.add("here", Filter.read({"at.city": "Rome"}))
    moved = {"id": 1, "at": {"city": "Rome"}}, {"id": 1, "at": {"city": "Oslo"}}
    assert (len(index), index.transitions(*moved), index.transitions(*moved[::-1])) == (
        1,
        [("here", "delete")],
        [("here", "create")],
    )


def test_one_branch_that_asks_for_no_value_has_the_view_judged_always():
    """Whatever the others ask for: a record may be in it by that branch alone."""
    index = ViewIndex[str]()
    index.add("mine or new", Filter.read({"$or": [{"owner": "ann"}, {"rank": {"$gt": 5}}]}))
    assert index.transitions(None, {"id": 1, "owner": "bob", "rank": 6}) == [("mine or new", "create")]
    assert index.transitions(None, {"id": 1, "owner": "bob", "rank": 5}) == []
