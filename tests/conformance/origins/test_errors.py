"""Errors (docs/errors.md): what is declared is told, anything else is logged under an id and told by that alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from bbio import (
    Backend,
    EncodingError,
    InternalError,
    NotFound,
    Store,
    SyncError,
    Unauthorized,
    after,
    before,
    create,
    delete,
    on_error,
    read,
    use,
)
from tests.support.origins import OfServer, Origin, failure, logged

SECRET = "postgres://root:hunter2@db"


class Locked(SyncError):
    "This record is locked."

    code = 423
    details = ("by",)


async def test_a_declared_error_is_told_as_declared(origin: Origin) -> None:
    """Name, message, code and declared details, and nothing else."""

    class Todos(Backend):
        @before("create")
        def log_in(self) -> None:
            raise Unauthorized("log in first")

        @read
        def missing(self) -> None:
            raise NotFound

        @delete
        async def locked(self) -> None:
            raise Locked(by="ann")

    asker = await origin.asker(await origin.serve(Todos), "todos")
    refused = await failure(asker.sync("create"), "Unauthorized")
    assert refused == {"name": "Unauthorized", "message": "log in first", "code": 401}
    missing = await failure(asker.sync("read"), "NotFound")
    assert (missing["code"], set(missing)) == (404, {"name", "message", "code"})
    locked = {"name": "Locked", "message": "This record is locked.", "code": 423, "by": "ann"}
    assert await failure(asker.sync("delete"), "Locked") == locked


def broken(place: str) -> type[Backend]:
    """Return a backend that fails at a place, as application code does."""

    def fail(*_: Any) -> None:
        raise RuntimeError(f"cannot reach {SECRET}")

    async def answer(self: Any, req: Any) -> Any:
        return req.model

    async def refuse(self: Any, req: Any) -> Any:
        raise NotFound

    broken_store = type("Broken", (Store,), {"create": lambda self, req: fail()})
    body = {
        "before": {"a": before("create")(lambda self, req: fail())},
        "thread": {"a": before("create", thread=True)(lambda self, req: fail())},
        "use": {"a": use("create")(lambda self, req: fail())},
        "handler": {"a": create(lambda self, req: fail())},
        "store": {"store": broken_store()},
        "after": {"a": create(answer), "b": after("create")(lambda self, req: fail())},
        "on_error": {"a": create(refuse), "b": on_error("create")(lambda self, err: fail())},
    }
    return type("Todos", (Backend,), body[place])


@pytest.mark.parametrize("place", ["before", "thread", "use", "handler", "store", "after", "on_error"])
async def test_any_other_exception_is_told_by_its_id_alone(
    origin: Origin, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """The log has all of it once, under the same id, and no value of the model; code of the server gets the cause."""
    app = await origin.serve(broken(place))
    asker = await origin.asker(app, "todos")
    with caplog.at_level(logging.ERROR, logger="bbio"):
        errors = [await failure(asker.sync("create", {"password": "12345"}), "InternalError") for _ in range(2)]
    assert len({error["id"] for error in errors}) == 2
    for error in errors:
        assert {**error, "id": ""} == {"name": "InternalError", "message": "Internal error.", "code": 500, "id": ""}
        (record,) = [r for r in caplog.records if error["id"] in r.getMessage()]
        assert record.exc_info is not None
        assert SECRET in str(record.exc_info[1])
    assert "12345" not in caplog.text
    # What `after` raises comes when others have been told: only the reply fails.
    assert [method for method, _ in await logged(app.backends["todos"])] == ["create"] * 2 * (place == "after")
    if isinstance(asker, OfServer):
        with pytest.raises(InternalError) as caught:
            await asker.runtime.create({}, **asker.who)
        assert isinstance(caught.value.__cause__, RuntimeError)


async def test_a_result_that_cannot_travel_is_an_error_at_its_place(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells a client's developer the place and the layer; code of the server is told itself."""

    class Todos(Backend):
        @read
        def odd(self) -> Any:
            return {"value": [1j]}

    app = await origin.serve(Todos)
    asker = await origin.asker(app, "todos")
    place = r"result.value.0, from Todos.odd ("
    if origin.is_socket:
        await failure(asker.sync("read", {"id": 1}), "InternalError")
        assert place in caplog.text
    else:
        with pytest.raises(EncodingError) as caught:
            await asker.sync("read", {"id": 1})
        assert str(caught.value).startswith(place)
    assert await asker.sync("update", {"id": 1}) == {"id": 1}
