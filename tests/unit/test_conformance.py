"""The store suite: what it leaves out, and that it finds what is wrong with a store."""

import asyncio

import pytest

from bbio.builtin import MemoryStore
from bbio.conformance import CLAIMS, LOG_CLAIMS, LogConformance, SessionStoreConformance, StoreConformance, case
from bbio.errors import Conflict, NotFound
from bbio.log import MemoryLog
from bbio.protocol import encode
from bbio.streams import Event, Position


def suite(store, **attributes):
    """An instance of the suite for stores of a class."""
    kind = type("Suite", (StoreConformance,), {"make_store": lambda self, **options: store(**options), **attributes})
    return kind()


def names_in(kind):
    return [name for name in dir(kind) if name.startswith("test_") and getattr(kind, name) is not None]


def test_what_is_not_claimed_is_left_out():
    """A suite with fewer claims has fewer tests, and the suite itself keeps all of them."""
    every = names_in(StoreConformance)
    few = names_in(type(suite(MemoryStore, claims=frozenset())))
    assert set(few) < set(every)
    assert "test_upsert_creates_what_is_updated_or_patched" in set(every) - set(few)
    assert names_in(type(suite(MemoryStore))) == every


def test_an_unknown_claim_is_an_error():
    """A misspelt claim would leave tests out unseen."""
    with pytest.raises(TypeError, match="claims persistant; there are appends, atomic, "):
        suite(MemoryStore, claims=frozenset({"persistant"}))


def test_a_suite_must_make_stores():
    """What is missing is said."""
    with pytest.raises(NotImplementedError, match="Unfinished needs a method make_store"):
        type("Unfinished", (StoreConformance,), {})().make_store()


def test_a_log_need_not_list_its_streams():
    """It claims it, or the test is left out."""
    claims = LOG_CLAIMS - {"tops"}
    assert set(names_in(LogConformance)) - set(names_in(type(log_suite(MemoryLog, claims=claims)))) == {
        "test_all_streams_are_listed"
    }


async def test_nobody_listens_to_a_store_under_test():
    """Its backend has no sessions, and what ends or is to be asked again is nobody's."""
    async with suite(MemoryStore).opened() as models:
        backend = models.log.backend
        served = backend.__bbio_served__("sessions")
        assert served.live_sessions() == set()
        served.end_sessions({"x"})
        await backend.recheck()


def test_a_suite_may_be_added_to():
    """A test of one's own has the same helpers."""

    class More(StoreConformance):
        claims = CLAIMS - {"persistent"}

        def make_store(self, **options):
            return MemoryStore(**options)

        @case("upsert")
        async def test_more(self):
            async with self.opened(upsert=True) as models:
                await models.write("update", {"id": "a"})
                self.seen = await models.read("a")

    more = More()
    more.test_more()
    assert more.seen == {"id": "a"}


class ForgetsIds(MemoryStore):
    async def create(self, req):
        return req.model if req.model.get("id") else await super().create(req)


class MergesUpdates(MemoryStore):
    async def update(self, req):
        return {**(await self.read(req)).models, **(await super().update(req))}

    patch = update


class ForgivesUnknown(MemoryStore):
    async def update(self, req):
        try:
            return await super().update(req)
        except NotFound:
            return req.model

    patch = update
    delete = update


class IgnoresFilters(MemoryStore):
    async def read(self, req):
        req.options = {}
        return await super().read(req)


class OverwritesNewer(MemoryStore):
    async def update(self, req):
        req.rev = None
        return await super().update(req)

    patch = update
    delete = update


class CountsFromOneAgain(MemoryStore):
    async def write(self, req):
        if req.method == "delete":
            self._rev = 0
        return await super().write(req)


class RepeatsOperations(MemoryStore):
    async def write(self, req):
        req.op = None
        return await super().write(req)


class TakesAnyPayload(MemoryStore):
    async def write(self, req):
        req.payload = '["sync",{}]'
        return await super().write(req)


class RemembersRefusals(MemoryStore):
    refused = frozenset()

    async def write(self, req):
        if req.op in self.refused:
            raise Conflict()
        try:
            return await super().write(req)
        except NotFound:
            self.refused |= {req.op}
            raise


class LosesEvents(MemoryStore):
    async def write(self, req):
        self.streams.append("c:", "update", b"{}")
        return await super().write(req)


class KeepsEverything(MemoryStore):
    def __init__(self, **options):
        options.pop("history", None)
        super().__init__(**options)


class RecoversAnything(MemoryStore):
    async def since(self, stream, epoch, offset, stamp=0):
        found = await super().since(stream, epoch, offset)
        return [] if found is None else found


class AlwaysTheSameEpoch(MemoryStore):
    async def since(self, stream, epoch, offset, stamp=0):
        return await super().since(stream, self.streams.stream(stream).epoch, offset, stamp)

    async def positions(self, streams):
        found = await super().positions(streams)
        return {name: Position("always", position.offset) for name, position in found.items()}


class TakesAnyStamp(MemoryStore):
    async def since(self, stream, epoch, offset, stamp=0):
        return await super().since(stream, epoch, offset)


class HasNoStamps(MemoryStore):
    def open(self, backend, publisher):
        opened = super().open(backend, publisher)
        append = opened.streams.append

        def unstamped(*what, **named):
            event = append(*what, **named)
            event.stamp = 0
            return event

        opened.streams.append = unstamped
        return opened


class ForgetsItsModels(MemoryStore):
    pass


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (ForgetsIds, "test_ids_are_given_by_the_store"),
        (MergesUpdates, "test_update_replaces_patch_merges_and_delete_removes"),
        (ForgivesUnknown, "test_an_unknown_id_is_not_found"),
        (IgnoresFilters, "test_data_filters_by_equality"),
        (OverwritesNewer, "test_an_older_revision_is_a_conflict"),
        (CountsFromOneAgain, "test_revisions_survive_deletion"),
        (RepeatsOperations, "test_a_repeated_operation_has_one_effect"),
        (TakesAnyPayload, "test_another_request_under_the_same_operation_is_a_conflict"),
        (RemembersRefusals, "test_a_refused_write_is_not_remembered"),
        (LosesEvents, "test_offsets_count_from_one"),
        (KeepsEverything, "test_history_is_bounded_by_events"),
        (RecoversAnything, "test_since_admits_what_it_does_not_know"),
        (AlwaysTheSameEpoch, "test_a_position_is_never_wrong_after_a_restart"),
        (TakesAnyStamp, "test_a_position_with_another_stamp_recovers_nothing"),
        (HasNoStamps, "test_every_event_has_a_stamp"),
        (ForgetsItsModels, "test_models_are_there_after_a_restart"),
    ],
)
def test_what_is_wrong_with_a_store_is_found(store, test):
    """A store that breaks one rule fails the test of that rule, which a right one passes."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(suite(store), test)()
    if store is not ForgetsItsModels:
        getattr(suite(MemoryStore), test)()


def log_suite(log, **attributes):
    """An instance of the suite for logs of a class."""
    kind = type("Suite", (LogConformance,), {"make_log": lambda self, **options: log(**options), **attributes})
    return kind()


def test_a_suite_must_make_session_stores():
    """It says how."""
    with pytest.raises(NotImplementedError, match="make_store"):
        SessionStoreConformance().make_store()


def test_a_suite_must_make_logs():
    """What is missing is said; an unknown claim, too."""
    with pytest.raises(NotImplementedError, match="Unfinished needs a method make_log"):
        type("Unfinished", (LogConformance,), {})().make_log()
    with pytest.raises(TypeError, match="claims revisons; there are appends, atomic, "):
        log_suite(MemoryLog, claims=frozenset({"revisons"}))


class AppendsAgain(MemoryLog):
    async def append(self, stream, method, model, req=None):
        return self.record(stream, method, model, self.encode(model), req, req and req.operation)


class FindsNothing(MemoryLog):
    async def find(self, req):
        return None


class TellsNobody(MemoryLog):
    def open(self, backend, publisher):
        opened = super().open(backend, publisher)
        opened._publish = lambda event, origin: None
        return opened


class TellsAll(MemoryLog):
    def open(self, backend, publisher):
        opened = super().open(backend, publisher)
        opened.encode = encode
        return opened


class TellsSecrets(MemoryLog):
    async def append(self, stream, method, model, req=None):
        commit = await super().append(stream, method, model, req)
        if req is not None and req.op is not None:
            commit.event.op = f"{req.op.c}:{req.op.n}"
        return commit


class TakesEverybodyForOne(MemoryLog):
    async def append(self, stream, method, model, req=None):
        if req is not None:
            req.user = None
        return await super().append(stream, method, model, req)


class NumbersWhatFails(MemoryLog):
    async def append(self, stream, method, model, req=None):
        self.streams.stream(stream).top += 1
        return await super().append(stream, method, model, req)


class LosesItsOperations(MemoryLog):
    async def append(self, stream, method, model, req=None):
        earlier = None if req is None else await self.find(req)
        if earlier is not None:
            return earlier
        await asyncio.sleep(0)
        return self.record(stream, method, model, self.encode(model), req, req and req.operation)


class PublishesBeforeItWaits(MemoryLog):
    async def append(self, stream, method, model, req=None):
        self._publish(Event(stream, "e", 1, method, self.encode(model)), None)
        await asyncio.sleep(0)
        return await super().append(stream, method, model, req)


class ListsNothing(MemoryLog):
    async def tops(self):
        return {"": (await super().tops())[""]}


class AlwaysAtTheBeginning(MemoryLog):
    async def positions(self, streams):
        return {name: Position("always", 0) for name in streams}


@pytest.mark.parametrize(
    ("log", "test"),
    [
        (TellsNobody, "test_what_is_appended_is_published"),
        (NumbersWhatFails, "test_what_cannot_be_written_is_no_event"),
        (AppendsAgain, "test_a_repeated_operation_is_one_event"),
        (FindsNothing, "test_find_tells_what_an_operation_came_to"),
        (TakesEverybodyForOne, "test_operations_belong_to_who_asked"),
        (TellsSecrets, "test_an_operation_is_told_in_its_public_form"),
        (TellsAll, "test_private_fields_are_no_part_of_an_event"),
        (LosesItsOperations, "test_duplicates_at_the_same_time_are_one_event"),
        (PublishesBeforeItWaits, "test_a_writer_that_gives_up_wrote_all_or_nothing"),
        (AlwaysAtTheBeginning, "test_every_channel_has_a_stream"),
        (ListsNothing, "test_all_streams_are_listed"),
        (MemoryLog, "test_events_and_operations_are_there_after_a_restart"),
    ],
)
def test_what_is_wrong_with_a_log_is_found(log, test):
    """A log that breaks one rule fails the test of that rule, which a right one passes."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(log_suite(log), test)()
    if log is not MemoryLog:
        getattr(log_suite(MemoryLog), test)()
