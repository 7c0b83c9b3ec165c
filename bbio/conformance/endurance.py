"""Many writers at once, writers that give up, and what is left after a stop."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress

from bbio.conformance.cases import Cases, Opened, canonical, case, refused
from bbio.protocol import decode


class Concurrency(Cases):
    """Many writers at once."""

    @case()
    async def test_many_writers_share_a_stream(self) -> None:
        """Events are published in the order of their offsets, without holes, and each writer gets its own."""
        async with self.opened() as models:

            async def write(writer: int) -> list[int]:
                return [(await models.write("create", {"w": writer, "n": n})).event.offset for n in range(10)]

            offsets = await asyncio.gather(*(write(writer) for writer in range(20)))
            assert [event.offset for event, _ in models.published] == list(range(1, 201))
            assert sorted(itertools.chain(*offsets)) == list(range(1, 201))
            assert all(own == sorted(own) for own in offsets)
            assert len(await models.all()) == 200

    @case("atomic")
    async def test_patches_at_the_same_time_lose_nothing(self) -> None:
        """Every field that somebody wrote is there, and each event holds what those before it wrote."""
        async with self.opened() as models:
            id = (await models.create({}))[models.key]
            await asyncio.gather(*(models.write("patch", {models.key: id, f"f{n}": n}) for n in range(50)))
            assert await models.read(id) == {models.key: id, **{f"f{n}": n for n in range(50)}}
            bodies = [decode(event.body) for event, _ in models.published]
            assert all(a.items() < b.items() for a, b in itertools.pairwise(bodies))

    @case("atomic", "revisions")
    async def test_of_writes_based_on_one_revision_one_passes(self) -> None:
        """The others are conflicts with what it wrote."""
        async with self.opened() as models:
            milk = await models.create({"n": 0})
            rev = await models.revision(milk[models.key])
            outcomes = await asyncio.gather(
                *(models.write("update", {**milk, "n": n}, rev=rev) for n in range(1, 11)), return_exceptions=True
            )
            assert [type(outcome).__name__ for outcome in outcomes].count("Conflict") == 9
            assert len(models.published) == 2
            assert await models.read(milk[models.key]) == decode(models.published[-1][0].body)

    @case("atomic")
    async def test_a_writer_that_gives_up_wrote_all_or_nothing(self) -> None:
        """Whenever it is cancelled, model, event and operation are all there or none is; others are not disturbed."""
        async with self.opened() as models:
            for steps in range(12):
                op = f"c:{steps}"
                writer = asyncio.ensure_future(models.write("create", {"n": steps}, op=op))
                other = asyncio.ensure_future(models.create({"other": steps}))
                for _ in range(steps):
                    await asyncio.sleep(0)
                writer.cancel()
                with suppress(asyncio.CancelledError):
                    await writer
                await other
                known = await models.log.find(models.request("create", {"n": steps}, op=op))
                found = [model for model in await models.all() if model.get("n") == steps]
                assert found == ([] if known is None else [known.record])
                assert (await models.write("create", {"n": steps}, op=op)).duplicate is (known is not None)
            await consistent(models)
            assert len(await models.all()) == 24


class Persistence(Cases):
    """A stop and a start."""

    @case()
    async def test_a_position_is_never_wrong_after_a_restart(self) -> None:
        """A client that comes back is told exactly what it missed, or that nobody knows."""
        async with self.opened() as models:
            for n in range(3):
                await models.create({"n": n})
            published = [event for event, _ in models.published]
        async with self.opened() as models:
            for n in range(3, 6):
                await models.create({"n": n})
            events = await models.log.since("c:", published[0].epoch, 2)
            if events is None:
                assert (await models.top()).epoch != published[0].epoch
            else:
                assert [decode(event.body)["n"] for event in events] == [2, 3, 4, 5]
                assert [event.offset for event in events] == [3, 4, 5, 6]

    @case("persistent")
    async def test_models_are_there_after_a_restart(self) -> None:
        """They are as they were written, and their ids are not used again."""
        async with self.opened() as models:
            made = [await models.create({"n": n}) for n in range(5)]
            await models.write("patch", {**made[0], "n": 10})
            await models.write("delete", made[1])
            kept = await models.all()
        async with self.opened() as models:
            assert await models.all() == kept
            await refused(models.read(made[1][models.key]), "NotFound")
            again = [await models.create({"n": n}) for n in range(5)]
            assert not {model[models.key] for model in again} & {model[models.key] for model in made}

    @case("persistent", "atomic")
    async def test_history_goes_on_after_a_restart(self) -> None:
        """In the same epoch, at the next offset."""
        async with self.opened() as models:
            await models.create({"n": 0})
            await models.log.append("*", "update", {"n": "told"})
            top = await models.top()
        async with self.opened() as models:
            assert await models.top() == top
            await models.create({"n": 1})
            assert models.published[0][0].offset == 2
            events = await models.log.since("c:", top.epoch, 0)
            assert [decode(event.body)["n"] for event in events or ()] == [0, 1]
            epoch = (await models.log.positions(["*"]))["*"].epoch
            events = await models.log.since("*", epoch, 0)
            assert [decode(event.body) for event in events or ()] == [{"n": "told"}]

    @case("persistent", "atomic")
    async def test_operations_are_known_after_a_restart(self) -> None:
        """A client that repeats its write to the next process is not served twice."""
        async with self.opened() as models:
            first = await models.write("create", {"n": 1}, op="c:1")
        async with self.opened() as models:
            again = await models.write("create", {"n": 1}, op="c:1")
            assert (again.record, again.duplicate) == (first.record, True)
            assert models.published == []
            assert await models.all() == [first.record]
            await refused(models.write("create", {"n": 2}, op="c:1"), "Conflict")

    @case("persistent", "revisions", "atomic")
    async def test_revisions_go_on_after_a_restart(self) -> None:
        """Also those of models that are gone."""
        async with self.opened() as models:
            milk, gone = await models.create({"n": 0}), await models.create({})
            await models.write("delete", gone)
            latest = models.published[-1][0].rev or 0
            rev = await models.revision(milk[models.key])
        async with self.opened() as models:
            assert await models.revision(milk[models.key]) == rev
            await models.write("patch", milk, rev=rev)
            assert (models.published[0][0].rev or 0) > latest

    @case("persistent", "models")
    async def test_models_to_begin_with_are_for_the_first_time(self) -> None:
        """A restart does not bring them back."""
        first = [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
        async with self.opened(models=first) as models:
            await models.write("delete", {"id": "a"})
            await models.write("patch", {"id": "b", "n": 3})
        async with self.opened(models=first) as models:
            assert await models.all() == [{"id": "b", "n": 3}]

    @case("persistent")
    async def test_a_stop_waits_for_what_is_being_written(self) -> None:
        """A write that was begun is acknowledged and there, or it fails."""
        async with self.opened() as models:
            writers = [asyncio.ensure_future(models.create({"n": n})) for n in range(30)]
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*writers, return_exceptions=True)
        async with self.opened() as models:
            written = [outcome for outcome in outcomes if isinstance(outcome, dict)]
            assert await models.all() == sorted(written, key=canonical)


async def consistent(models: Opened) -> None:
    """The stream must tell of exactly the creations of the models that there are, and have been published so."""
    events = await models.history() or []
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    assert [event.offset for event, _ in models.published] == [event.offset for event in events]
    assert await models.all() == sorted((decode(event.body) for event in events), key=canonical)
