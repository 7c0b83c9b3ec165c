"""Events that tell what a write changed, made into such as tell whole records, without I/O.

Mirrors and readers know whole records alone. The record that a change builds on is what a mirror holds, or what was
told last; else the model is read. docs/protocol.md, "What changed", has the rules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from bbio.client.errors import passing
from bbio.client.replica import Key, Model
from bbio.client.tracker import Meta
from bbio.errors import NotFound, SyncError
from bbio.query.ordering import lookup
from bbio.query.query import Comparison, Condition, Query
from bbio.streams import BACKEND_WIDE

# How many records are remembered that were told last, for those who listen and hold nothing; and revisions let go of.
RECENT_MODELS = 100
MISSED_MODELS = 1_000
# How many of these events wait for the end of a reading.
HELD_CHANGES = 10_000


class News(NamedTuple):
    """A notification; `own`: of a write of this client."""

    method: str
    model: Any
    meta: Meta | None
    own: bool = False

    @property
    def rev(self) -> int:
        """The revision that it tells of, -1 where it tells none."""
        return -1 if self.meta is None or self.meta.rev is None else self.meta.rev

    @property
    def fields(self) -> set[str]:
        """The names of the fields that a change concerns."""
        assert self.meta is not None
        return {*self.model, *self.meta.unset, *self.meta.append}


class Known(NamedTuple):
    """A model as it is known; `rev`: the revision that it is just that of, `model`: None of one that is gone."""

    rev: int | None
    model: Model | None


Answered = Callable[[SyncError | None, Any, Any], None]


class Owner(Protocol):
    """Somebody whom these events are told to, and who reads for them."""

    def is_reading(self) -> bool:
        """Return whether anything is being read that says what the models are."""

    def known(self, key: Key) -> Iterable[Known]:
        """Return what mirrors know of a model."""

    def wants(self, news: News) -> bool:
        """Return whether anything needs a model that nobody knows."""

    def read(self, key: Key, done: Answered) -> None:
        """Read one model."""

    def tell(self, news: Iterable[News]) -> None:
        """Take news, in order."""

    def lost(self, *, whole: bool) -> None:
        """Have everything told again, with `whole` records from then on."""


class Deltas:
    """The changes that came in one channel.

    Parameters:
        owner: whom they are told to.
        id_attribute: the name of the id in the models.
    """

    def __init__(self, owner: Owner, id_attribute: str) -> None:
        self._owner = owner
        self._id_attribute = id_attribute
        self._active = False
        self._recent: OrderedDict[Key, Known] = OrderedDict()
        # The revisions of what nobody wanted: what is told of an older one is not up to date.
        self._missed: OrderedDict[Key, int] = OrderedDict()
        # What waits until its model is read, or all is.
        self._awaited: dict[Key, list[News]] = {}
        self._held: list[News] = []
        # Grows when everything is to be told again: what was asked for before says nothing then.
        self._era = 0

    @property
    def settled(self) -> bool:
        """Return whether nothing waits."""
        return not self._held and not self._awaited

    def whole(self, news: News) -> Sequence[News]:
        """Return what a notification tells as whole records, as far as they are known by now."""
        if news.method != "patch":
            return self._passed(news) if self._active else (news,)
        self._active = True
        if self._owner.is_reading():
            if len(self._held) < HELD_CHANGES:
                self._held.append(news)
            else:
                self._owner.lost(whole=False)
            return ()
        key = self._key(news)
        if key is None:
            self._owner.lost(whole=True)
            return ()
        waiting = self._awaited.get(key)
        if waiting is not None:
            waiting.append(news)
            return ()
        model = self.now(news)
        if model is not None:
            return self._passed(news._replace(method="update", model=model))
        known = self._known(key, news)
        if any(each.rev is None or each.rev < news.rev for each in known) or (not known and self._owner.wants(news)):
            self._read(key, news)
        elif not known:
            _remember(self._missed, key, news.rev, MISSED_MODELS)
        return ()

    def now(self, news: News) -> Model | None:
        """Return the record that a change came to, where that is known by now."""
        key, meta = self._key(news), news.meta
        if meta is None or key is None or key in self._awaited or self._owner.is_reading():
            return None
        for each in self._known(key, news):
            if each.rev is not None and each.rev == meta.base and each.model is not None:
                return patched(each.model, news.model, meta)
        return None

    def released(self) -> None:
        """Take what waited, as something was read."""
        if self._held and not self._owner.is_reading():
            held, self._held = self._held, []
            self._owner.tell(held)

    def restart(self) -> None:
        """Forget what is known: everything is read anew."""
        self._era += 1
        self._recent.clear()
        self._missed.clear()
        self._awaited.clear()
        self._held = []

    def _key(self, news: News) -> Key | None:
        key = news.model.get(self._id_attribute) if isinstance(news.model, dict) else None
        return key if isinstance(key, (str, int)) else None

    def _known(self, key: Key, news: News) -> list[Known]:
        """Return what is known of a model, but for deletions before a change of it."""
        known = [*self._owner.known(key), *filter(None, [self._recent.get(key)])]
        return [each for each in known if each.model is not None or (each.rev or 0) >= news.rev]

    def _passed(self, news: News) -> Sequence[News]:
        """Note a whole record, or a deletion, that is told now."""
        key = self._key(news)
        if key is None:
            return (news,)
        if news.method == "delete" or news.rev < 0:
            self._recent.pop(key, None)
        elif key not in self._recent or (self._recent[key].rev or 0) <= news.rev:
            _remember(self._recent, key, Known(news.rev, news.model), RECENT_MODELS)
        missed = self._missed.pop(key, None)
        if missed is not None and news.method != "delete" and news.rev < missed:
            self._read(key, news)
        return (news,)

    def _read(self, key: Key, news: News) -> None:
        era = self._era
        self._awaited[key] = [news]

        def done(error: SyncError | None, model: Any, meta: Any) -> None:
            if era != self._era:
                return
            waiting = self._awaited.pop(key)
            if isinstance(error, NotFound):
                return  # what takes it away is still to come
            rev = meta.get("r") if isinstance(meta, dict) else None
            found = isinstance(model, dict) and model.get(self._id_attribute) == key
            if error is not None or not found or type(rev) is not int or news.meta is None:
                self._owner.lost(whole=error is None or not passing(error))
                return
            # No stream has told it: whoever shows some records alone looks whether it is one.
            read = News("update", model, news.meta._replace(rev=rev, stream=BACKEND_WIDE))
            self._owner.tell([read, *(each for each in waiting if each.method == "patch" and each.rev > rev)])

        self._owner.read(key, done)


def patched(model: Model, changes: Model, meta: Meta) -> Model | None:
    """Return what a record comes to by a change, None where that cannot be.

    Example:
        >>> meta = Meta("c:", "9a0c", 7, rev=5, base=3, unset=["old"], append={"text": " bread"})
        >>> patched({"id": 7, "text": "milk", "old": 1}, {"id": 7, "n": 2}, meta)
        {'id': 7, 'text': 'milk bread', 'n': 2}
    """
    made = {**model, **changes}
    for name in meta.unset:
        made.pop(name, None)
    for name, text in meta.append.items():
        if not isinstance(model.get(name), str):
            return None
        made[name] = model[name] + text
    return made


def may_enter(query: Query, news: News) -> bool:
    """Return whether a change may let a model come in that was not what a query asks for, or not on its page."""
    assert news.meta is not None
    fields, append = news.fields, news.meta.append
    concerned = [condition for condition in query.where if _fields_of(condition) & fields]
    is_moved = query.is_paged and any(order.path[0] in fields for order in query.order if not order.tie)
    return (is_moved or bool(concerned)) and all(
        not isinstance(each, Comparison) or each.path[0] in append or each.holds(lookup(news.model, each.path))
        for each in concerned
    )


def _fields_of(condition: Condition) -> set[str]:
    if isinstance(condition, Comparison):
        return {condition.path[0]}
    return {field for branch in condition.branches for each in branch for field in _fields_of(each)}


def _remember(kept: OrderedDict[Key, Any], key: Key, value: Any, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
