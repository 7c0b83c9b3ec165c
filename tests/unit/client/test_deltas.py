"""What a write changed, made into whole records by the client."""

from __future__ import annotations

import pytest

from bbio.client import deltas as module
from bbio.client.deltas import Deltas, Known, News, may_enter, patched
from bbio.client.replica import Replica
from bbio.client.tracker import Meta
from bbio.errors import Forbidden, NotFound, Timeout
from bbio.query import Query


class Owner:
    """Mirrors, a server that is asked, and what they are told."""

    def __init__(self):
        self.reading = False
        self.models = {}
        self.wanted = False
        self.asked = []
        self.told = []
        self.losses = []
        self.deltas = Deltas(self, "id")

    def is_reading(self):
        return self.reading

    def known(self, key):
        return self.models.get(key, [])

    def wants(self, news):
        return self.wanted

    def read(self, key, done):
        self.asked.append((key, done))

    def tell(self, news):
        for each in news:
            self.told += [(one.method, one.model, one.rev) for one in self.deltas.whole(each)]

    def lost(self, *, whole):
        self.losses.append(whole)

    def answer(self, error=None, model=None, rev=None):
        _, done = self.asked.pop(0)
        done(error, model, {"r": rev})


@pytest.fixture
def owner():
    return Owner()


def changed(rev, base, *, key=1, **fields):
    """News of what a write changed; `append` and `unset` of that."""
    meta = Meta("c:", "e", rev, rev=rev, base=base, append=fields.pop("append", {}), unset=fields.pop("unset", ()))
    return News("patch", {"id": key, **fields}, meta)


def whole(method, rev, **fields):
    return News(method, {"id": 1, **fields}, Meta("c:", "e", 1, rev=rev))


def test_what_a_mirror_has_is_changed(owner):
    """Fields are set, taken away, and added to; the mirror's own stays as it is."""
    model = {"id": 1, "text": "a", "old": 1}
    owner.models[1] = [Known(3, model)]
    owner.tell([changed(5, 3, n=1, append={"text": "b"}, unset=["old", "older"])])
    assert owner.told == [("update", {"id": 1, "text": "ab", "n": 1}, 5)]
    assert model == {"id": 1, "text": "a", "old": 1}
    # The next one builds on what was told.
    owner.tell([changed(6, 5, append={"text": "c"})])
    assert owner.told[-1] == ("update", {"id": 1, "text": "abc", "n": 1}, 6)
    assert (owner.asked, owner.deltas.settled) == ([], True)


def test_whole_records_are_as_they_were(owner):
    """Before what changed has ever come nothing is looked at; then what they tell is known, until it is gone."""
    odd = News("update", None, None)
    owner.tell([whole("create", 1, text="a"), odd, changed(2, 1, n=1)])
    assert [method for method, _, _ in owner.told] == ["create", "update"]
    owner.tell([whole("create", 3, text="a"), odd, whole("update", 2, text="old"), changed(4, 3, append={"text": "b"})])
    assert owner.told[-1] == ("update", {"id": 1, "text": "ab"}, 4)
    for gone in (whole("delete", 5), whole("update", None, text="x")):
        owner.tell([whole("create", 6, text="c"), gone, changed(7, 6, n=1)])
        assert owner.told[-1][0] == gone.method
        owner.deltas.restart()
    assert owner.asked == []


def test_what_is_newer_than_it_is_left_alone(owner):
    """Also what is gone by then."""
    for known in (Known(5, {"id": 1}), Known(9, {"id": 1}), Known(5, None)):
        owner.models[1] = [known]
        owner.tell([changed(5, 3, n=1)])
    assert (owner.told, owner.asked) == ([], [])


@pytest.mark.parametrize("known", [Known(2, {"id": 1}), Known(None, {"id": 1}), Known(3, {"id": 1, "text": 7})])
def test_what_is_older_is_read(owner, known):
    """What comes meanwhile waits for the answer, which may have it already."""
    owner.models[1] = [known]
    owner.tell([changed(5, 3, append={"text": "c"}), changed(6, 5, append={"text": "d"}), whole("update", 4, text="x")])
    assert [key for key, _ in owner.asked] == [1]
    owner.tell([changed(7, 6, append={"text": "e"})])
    assert owner.deltas.now(changed(8, 7)) is None
    assert not owner.deltas.settled
    del owner.models[1]
    owner.answer(model={"id": 1, "text": "abcd"}, rev=6)
    assert owner.told[1:] == [("update", {"id": 1, "text": "abcd"}, 6), ("update", {"id": 1, "text": "abcde"}, 7)]
    assert owner.deltas.settled


def test_what_is_not_there_is_read_only_where_it_is_wanted(owner):
    """Else its revision is remembered: an older record that comes after all is not up to date."""
    owner.tell([changed(5, 3), changed(6, 5)])
    assert owner.asked == []
    owner.tell([whole("create", 4, text="a")])
    assert owner.told == [("create", {"id": 1, "text": "a"}, 4)]
    owner.answer(model={"id": 1, "text": "b"}, rev=6)
    assert owner.told[-1] == ("update", {"id": 1, "text": "b"}, 6)
    owner.tell([changed(9, 8, key=2)])
    owner.told.clear()
    owner.tell([News("create", {"id": 2}, Meta("c:", "e", 1, rev=9))])
    assert (owner.asked, owner.told) == ([], [("create", {"id": 2}, 9)])
    owner.wanted = True
    owner.tell([changed(5, 3, key=3)])
    assert [key for key, _ in owner.asked] == [3]
    owner.answer(NotFound("gone"))
    assert (owner.deltas.settled, owner.losses) == (True, [])


@pytest.mark.parametrize(
    ("answer", "losses"),
    [
        ({"error": Timeout("late")}, [False]),
        ({"error": Forbidden("no")}, [True]),
        ({"model": {"id": 1}}, [True]),
        ({"model": {"id": 1}, "rev": True}, [True]),
        ({"model": {"id": 2}, "rev": 6}, [True]),
        ({"model": [], "rev": 6}, [True]),
    ],
)
def test_what_cannot_be_read_is_told_again(owner, answer, losses):
    """With whole records from then on, where another reading would say no more."""
    owner.wanted = True
    owner.tell([changed(5, 3)])
    owner.answer(**answer)
    assert owner.losses == losses


def test_records_without_the_id_that_is_expected_are_told_whole(owner):
    """Nobody could say which one has changed."""
    owner.tell([News("patch", {"_id": 1}, Meta("c:", "e", 1, rev=5, base=3))])
    owner.tell([News("patch", None, Meta("c:", "e", 1, rev=5, base=3))])
    assert owner.losses == [True, True]
    assert owner.deltas.now(News("patch", {"id": 1}, None)) is None


def test_what_comes_while_all_is_read_waits(owner, monkeypatch):
    """So many of them; what it builds on may be of another view until then."""
    monkeypatch.setattr(module, "HELD_CHANGES", 2)
    owner.models[1] = [Known(3, {"id": 1})]
    owner.reading = True
    owner.tell([changed(4, 3, n=1), changed(5, 4, n=2)])
    assert owner.deltas.now(changed(4, 3)) is None
    owner.deltas.released()
    assert (owner.told, owner.losses, owner.deltas.settled) == ([], [], False)
    owner.tell([changed(6, 5, n=3)])
    assert owner.losses == [False]
    owner.reading = False
    owner.deltas.released()
    owner.deltas.released()
    assert owner.told == [("update", {"id": 1, "n": 1}, 4), ("update", {"id": 1, "n": 2}, 5)]


def test_everything_is_forgotten_when_it_is_read_anew(owner):
    """What was asked before is not listened to."""
    owner.wanted = True
    owner.tell([changed(5, 3)])
    owner.deltas.restart()
    assert owner.deltas.settled
    owner.answer(model={"id": 1}, rev=5)
    assert owner.told == []


def test_what_is_remembered_has_an_end(owner, monkeypatch):
    """The oldest goes first."""
    monkeypatch.setattr(module, "MISSED_MODELS", 1)
    owner.tell([changed(5, 4, key=1), changed(7, 6, key=2)])
    for key in (1, 2):
        owner.tell([News("create", {"id": key}, Meta("c:", "e", 1, rev=3))])
    assert [key for key, _ in owner.asked] == [2]


def test_a_text_that_is_none_cannot_be_added_to():
    """Whoever holds that holds another record."""
    meta = changed(5, 3, append={"text": "x"}).meta
    assert patched({"id": 1, "text": None}, {"id": 1}, meta) is None
    assert patched({"id": 1}, {"id": 1}, meta) is None


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({"n": 1}, False),
        ({"done": True}, True),
        ({"done": False}, False),
        ({"unset": ["done"]}, False),
        ({"append": {"title": "x"}}, True),
        ({"title": "ab"}, True),
        ({"title": "b"}, False),
        ({"a": {"b": 1}}, True),
        ({"a": {"b": 2}}, False),
        ({"c": 7}, True),
        ({"c": 7, "done": False}, False),
    ],
)
def test_a_change_may_let_a_record_in_by_the_fields_that_it_concerns_alone(fields, may):
    """It was not in before; what cannot be known may be."""
    query = Query.read({"done": True, "title": {"$like": "a%"}, "a.b": 1, "$or": [{"c": 1}, {"d": 2}]})
    assert may_enter(query, changed(5, 3, **fields)) is may


@pytest.mark.parametrize(
    ("fields", "may"), [({"rank": 1}, True), ({"rank": 1, "done": False}, False), ({"n": 1}, False)]
)
def test_a_change_of_what_a_page_is_sorted_by_may_let_a_record_in(fields, may):
    """Where its conditions let it; of a list without pages it does not."""
    data = {"done": True, "sort": "-rank"}
    assert may_enter(Query.read({**data, "limit": 2}), changed(5, 3, **fields)) is may
    assert not may_enter(Query.read(data), changed(5, 3, **fields))


def test_a_replica_knows_what_its_models_are_just_that_of():
    """Not of one that was told since without a revision."""
    replica = Replica()
    replica.accept(1, {"id": 1}, 5)
    assert replica.at(1) == 5
    replica.accept(1, {"id": 1, "n": 1}, None)
    assert (replica.at(1), replica.rev(1)) == (None, 5)
    replica.accept(1, {"id": 1, "n": 2}, 6)
    assert replica.at(1) == 6
    replica.accept(1, None, None)
    replica.replace([(1, {"id": 1}, 7)])
    assert replica.at(1) == 7
