"""What of an error reaches a client: declared `SyncError`s as declared, of anything else an id."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from bbio import Backend, StackError, SyncError, before, read, use
from bbio.protocol import error_reply
from tests.support.stacks import Served

SECRET = "s3cret-7f"

details = st.dictionaries(
    st.from_regex(r"[a-z]{2,8}", fullmatch=True).filter(lambda name: name not in ("name", "message", "code")),
    st.integers(-9, 9) | st.text(max_size=5) | st.lists(st.integers(0, 9), max_size=2),
    max_size=3,
)


class Mute(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)


class Posing(Exception):
    """An error that looks like one for clients."""

    code = 200
    message = SECRET

    def to_json(self) -> dict[str, Any]:
        return {"secret": SECRET}


errors = st.sampled_from(
    [KeyError(SECRET), ValueError(SECRET), OSError(2, SECRET), StackError(SECRET), Posing(SECRET), Mute(),
     ExceptionGroup(SECRET, [KeyError(SECRET)]), StopAsyncIteration(SECRET), AssertionError(SECRET)]
)  # fmt: skip


def failing(place: str, error: Exception) -> type[Backend]:
    """A backend that fails in one of the places code can fail in."""

    class Todos(Backend):
        @use
        async def outer(self, res: Any, next: Any) -> Any:
            if place == "use":
                raise error
            if place == "res.error":
                return res.error(error)
            return await next()

        @read
        def answer(self) -> Any:
            raise error

    return Todos


def sent(backend: type[Backend], debug: bool) -> tuple[dict[str, Any], str]:
    """The error a client gets as JSON, and what was logged."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger("bbio")
    logger.addHandler(handler)
    try:
        res = asyncio.run(Served(backend, debug).sync("read"))
    finally:
        logger.removeHandler(handler)
    assert isinstance(res.failure, SyncError)
    (reply,) = msgspec.json.decode(error_reply(res.failure))
    assert reply.keys() == {"error"}
    return reply["error"], log.getvalue()


places = st.sampled_from(["use", "res.error", "handler"])


@given(places, st.integers(400, 599), st.text(max_size=20), details, st.booleans())
def test_a_sync_error_reaches_the_client_as_declared(
    place: str, code: int, message: str, values: dict[str, Any], debug: bool
) -> None:
    """Name, message, code and details, in debug mode or not; it is no accident, so it is not logged."""
    declared = type("Locked", (SyncError,), {"code": code, "details": tuple(values)})
    error, logged = sent(failing(place, declared(message, **values)), debug)
    assert error == {"name": "Locked", "message": message, "code": code, **values}
    assert logged == ""


@given(places, errors)
def test_of_any_other_error_only_an_id_reaches_the_client(place: str, error: Exception) -> None:
    """The reply has four fields, none of them the error's; the log has the error whole, under the same id."""
    reply, logged = sent(failing(place, error), debug=False)
    assert reply == {"name": "InternalError", "message": "Internal error.", "code": 500, "id": reply["id"]}
    assert SECRET not in json.dumps(reply)
    assert reply["id"] in logged
    assert type(error).__name__ in logged
    assert "Traceback" in logged
    assert isinstance(error, Mute) or SECRET in logged


@given(places, errors)
@example("handler", Mute())
def test_debug_adds_message_and_stack(place: str, error: Exception) -> None:
    """While developing, the client shows what went wrong and where."""
    reply, logged = sent(failing(place, error), debug=True)
    assert reply.keys() == {"name", "message", "code", "id", "stack"}
    assert reply["name"] == "InternalError"
    assert type(error).__name__ in reply["message"]
    assert isinstance(error, Mute) or SECRET in reply["message"]
    assert type(error).__name__ in reply["stack"]
    assert place == "res.error" or "test_stack_errors.py" in reply["stack"]
    assert reply["id"] in logged


@given(errors)
def test_ids_tell_failures_apart(error: Exception) -> None:
    """Two failures of the same kind have two ids."""

    class Todos(Backend):
        @before
        def broken(self) -> None:
            raise error

    assert sent(Todos, debug=False)[0]["id"] != sent(Todos, debug=False)[0]["id"]
