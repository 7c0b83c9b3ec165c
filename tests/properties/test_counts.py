"""Whatever clients set, count and append at once: memory, SQLite and PostgreSQL come to what a simple model says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bbio import Backend, Request
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.conformance.cases import Published, canonical
from bbio.protocol import decode
from bbio.runtime import Runtime
from tests.support.examples import examples

LIMIT = 2**53
FIELDS = "abc"
names = st.sampled_from(FIELDS)
numbers = st.integers(-3, 3) | st.sampled_from([0.5, -0.25, 1.0, LIMIT - 1, 1 - LIMIT, LIMIT - 3])
values = numbers | st.sampled_from(["x", None, True])
counts = st.dictionaries(names, numbers | st.sampled_from(["x", None, LIMIT]), max_size=2) | st.dictionaries(
    names, numbers, min_size=1, max_size=3
)
appends = st.just({}) | st.dictionaries(names, st.sampled_from(["y", "\u00e9z", "", 1]), max_size=2)
# Of a patch: what it sets, counts and appends, and how many writes ago its client read the model, if it says so.
patches = st.tuples(
    st.just({}) | st.dictionaries(names, values, max_size=2), counts, appends, st.none() | st.integers(0, 4)
)
# What is sent at the same time, one after the other.
programs = st.lists(st.lists(patches, min_size=1, max_size=5), max_size=5)


def as_told(model: dict[str, Any]) -> bytes:
    """A model as JavaScript has it: PostgreSQL writes the double 2.0 as 2."""
    return canonical(
        {name: int(each) if type(each) is float and each.is_integer() else each for name, each in model.items()}
    )


def known(value: Any) -> tuple[str, Any]:
    """A value as it is told from others: true is no number, and 1.0 is none that is whole."""
    return type(value).__name__, value


@attrs.define
class Tally:
    """A model whose numbers have kinds and limits."""

    a: int = attrs.field(default=0, validator=attrs.validators.ge(-2))
    b: float | None = attrs.field(default=1.5)
    c: Any = None


def is_valid(field: str, value: Any) -> bool:
    if field == "a":
        return type(value) is int and value >= -2
    return field == "c" or value is None or type(value) in (int, float)


def outcome(record: dict[str, Any], base: dict[str, Any] | None, patch: Any, typed: bool) -> Any:
    """What a patch makes of a record, or the name of the error that it meets."""
    sets, counts, appends, _ = patch
    bad = "Invalid" if typed else "BadRequest"
    is_number = {name: type(number) in (int, float) for name, number in counts.items()}
    if typed:
        of_kind = [type(number) is int or (name != "a" and is_number[name]) for name, number in counts.items()]
        if not all(of_kind) or not all(is_valid(*item) for item in sets.items()) or counts.keys() & sets:
            return bad
        if appends.keys() - {"c"} or appends.get("c", "") == 1 or appends.keys() & {*sets, *counts}:
            return bad
        if type(sets.get("b")) is int:
            sets = {**sets, "b": float(sets["b"])}
    changed = {name for name in FIELDS if base and known(base.get(name)) != known(record.get(name))}
    if any(name in changed and known(record.get(name)) != known(value) for name, value in sets.items()):
        return "Conflict"
    if counts.keys() & sets or appends.keys() & {*sets, *counts} or not all(is_number.values()):
        return bad
    result = {**record, **sets}
    for name, number in counts.items():
        held = record.get(name) or 0
        if type(held) not in (int, float) or max(abs(held), abs(number), abs(held + number)) >= LIMIT:
            return bad
        result[name] = float(held + number) if typed and name == "b" else held + number
        if typed and not is_valid(name, result[name]):
            return bad
    for name, text in appends.items():
        held = record.get(name)
        if type(text) is not str or type(held) not in (str, type(None)):
            return bad
        result[name] = (held or "") + text
    return result


class Loop:
    """An event loop with backends over each of the stores, keeping documents or models of a class."""

    def __init__(self, postgres_url: str, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self.run = self._runner.run
        self._stack = AsyncExitStack()
        self.backends: dict[bool, list[Any]] = {True: [], False: []}
        self.run(self._open(postgres_url, folder))

    async def _open(self, postgres_url: str, folder: Path) -> None:
        for typed, opened in self.backends.items():
            name = f"counts_{'typed' if typed else 'documents'}"
            for store in (MemoryStore(), SQLiteStore(folder / f"{name}.db"), PostgresStore(postgres_url)):
                kind = type("Tallies", (Backend,), {"store": store, "model": Tally if typed else None})
                runtime = Runtime(kind(), name, lambda work: None)
                runtime.open(Published())
                await runtime.start()
                self._stack.push_async_callback(runtime.stop)
                opened.append(runtime)

    def close(self) -> None:
        self.run(self._stack.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def loop(postgres_server: str) -> Iterator[Loop]:
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(postgres_server, Path(folder))
        yield loop
        loop.close()


@settings(deadline=None, max_examples=examples(60))
@given(programs, st.booleans())
@example([[({}, {"a": 1}, {}, None)] * 4, [({"a": 7}, {"b": 1}, {}, 3), ({"c": 1}, {"a": 1}, {}, 4)]], False)
@example(
    [[({}, {"a": 1}, {}, None), ({"a": 3}, {}, {}, None), ({}, {"a": -6}, {}, None), ({}, {"b": 0.5}, {}, None)]], True
)
@example([[({}, {"b": 1}, {"c": "y"}, None)] * 2, [({"c": "x"}, {}, {}, 2), ({"a": 1}, {}, {"c": "z"}, 3)]], True)
def test_counts_and_sets_in_any_order(loop, program, typed):
    """Each answer is what the model says, and so is what is stored and told in the end."""

    async def compare() -> None:
        for backend in loop.backends[typed]:
            await follow(backend, program, typed)

    loop.run(compare())


async def follow(backend: Any, program: list[list[Any]], typed: bool) -> None:
    made = await run(backend, "create", {})
    id, record = {"id": made.result["id"]}, made.result
    expected = {**record}
    told = [(made.commit.event.rev, expected)]
    for batch in program:
        # Whoever sends at the same time knows nothing of the others.
        seen = [told[-1 - min(ago, len(told) - 1)] if ago is not None else None for *_, ago in batch]
        outcomes = []
        for patch, base in zip(batch, seen, strict=True):
            outcomes.append(outcome(expected, None if base is None else base[1], patch, typed))
            expected = expected if isinstance(outcomes[-1], str) else outcomes[-1]
        answers = await asyncio.gather(
            *(
                run(
                    backend,
                    "patch",
                    {**id, **sets, "$inc": counts, "$append": appends},
                    rev=None if base is None else base[0],
                )
                for (sets, counts, appends, _), base in zip(batch, seen, strict=True)
            )
        )
        for answer, wanted in zip(answers, outcomes, strict=True):
            if isinstance(wanted, str):
                assert type(answer.failure).__name__ == wanted, backend.store
                continue
            assert answer.failure is None, backend.store
            assert as_told(answer.result) == as_told(wanted), backend.store
            assert as_told(decode(answer.commit.event.body)) == as_told(wanted), backend.store
            told.append((answer.commit.event.rev, wanted))
    found = await run(backend, "read", id)
    assert as_told(found.result) == as_told(expected), backend.store


async def run(backend: Any, method: str, model: Any, rev: int | None = None) -> Any:
    req = Request(method, model, backend=backend.backend, rev=rev)
    return await backend.stacks[method].run(req)
