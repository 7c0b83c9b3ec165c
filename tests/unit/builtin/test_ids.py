"""Ids of new models: none tells of another, unless the application gives them."""

import itertools

import pytest

from bbio import Conflict
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.builtin import ids as module
from bbio.builtin.ids import neighbouring_ids, random_ids
from bbio.conformance import opened


def test_ids_have_nothing_in_common():
    """Each has 64 bits of its own, also those that were drawn together."""
    drawn = list(itertools.islice(random_ids(), 2 * module.IDS_AT_ONCE + 1))
    assert len(set(drawn)) == len(drawn)
    assert all(len(id) == 16 and int(id, 16) >= 0 for id in drawn)
    for places in (slice(0, 6), slice(5, 11), slice(10, 16)):
        assert len({id[places] for id in drawn}) > len(drawn) - 5


def test_ids_of_one_time_are_neighbours(monkeypatch):
    """They begin with the time, which says nothing of the rest."""
    monkeypatch.setattr(module.time, "time", lambda: module.CLOCK + 0xABC)
    drawn = list(itertools.islice(neighbouring_ids(), 100))
    assert {id[:5] for id in drawn} == {"00abc"}
    assert len({id[5:] for id in drawn}) == 100


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request, tmp_path):
    """Makes a store; all that are made for one test keep their models in one file, if in any."""

    def make(**options):
        return MemoryStore(**options) if request.param == "memory" else SQLiteStore(tmp_path / "models.db", **options)

    return make


async def test_ids_are_random_by_default(make_store):
    """Whoever sees one cannot guess the next."""
    async with opened(make_store()) as models:
        ids = [(await models.create({}))["id"] for _ in range(20)]
    assert len({id[-16:-8] for id in ids}) == len({id[-8:] for id in ids}) == 20


async def test_ids_can_be_those_that_the_application_gives(make_store):
    """As it counts them, for instance."""
    async with opened(make_store(ids=itertools.count(1).__next__)) as models:
        assert [(await models.create({"n": n}))["id"] for n in range(3)] == [1, 2, 3]
        assert await models.read(2) == {"id": 2, "n": 1}


async def test_a_model_is_never_overwritten_by_a_new_one(make_store):
    """Whose id the application has given before."""
    async with opened(make_store(ids=itertools.cycle(["a", "b"]).__next__)) as models:
        for n in range(2):
            await models.create({"n": n})
        with pytest.raises(Conflict):
            await models.create({"n": 2})
        assert await models.all() == [{"id": "a", "n": 0}, {"id": "b", "n": 1}]
        await models.write("delete", {"id": "b"})
        assert await models.create({"n": 3}) == {"id": "b", "n": 3}
        assert [event.offset for event, _ in models.published] == [1, 2, 3, 4]


async def test_what_is_no_id_is_an_error_of_the_application(make_store):
    """It says what was given; the next is asked for again."""
    async with opened(make_store(ids=iter([1.5, "a"]).__next__)) as models:
        with pytest.raises(TypeError, match=r"ids=\.\.\. has given 1\.5; the id of a model is"):
            await models.create({})
        assert await models.create({}) == {"id": "a"}
