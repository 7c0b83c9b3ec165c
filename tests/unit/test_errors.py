"""The exceptions: what the developer may catch, and what reaches a client."""

import json

import pytest

from bbio import errors
from bbio.errors import (
    BadRequest,
    BbioError,
    Busy,
    ConfigurationError,
    Conflict,
    DefinitionError,
    Forbidden,
    FrozenError,
    InternalError,
    Invalid,
    NotFound,
    StackError,
    SyncError,
    Timeout,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SyncError, 400),
        (BadRequest, 400),
        (Unauthorized, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (Timeout, 408),
        (Conflict, 409),
        (UnknownOutcome, 409),
        (Invalid, 422),
        (Busy, 429),
        (InternalError, 500),
        (Unavailable, 503),
    ],
)
def test_an_error_travels_as_its_name_message_and_http_code(error, code):
    """The JSON of an error is its class name, its message and the code HTTP has for it, and nothing else."""
    assert error("sorry").to_json() == {"name": error.__name__, "message": "sorry", "code": code}


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (DefinitionError, TypeError),
        (ConfigurationError, ValueError),
        (FrozenError, RuntimeError),
        (StackError, RuntimeError),
        (BadRequest, ValueError),
        (Unauthorized, PermissionError),
        (Forbidden, PermissionError),
        (NotFound, LookupError),
        (Timeout, TimeoutError),
        (Invalid, ValueError),
        (Unavailable, ConnectionError),
    ],
)
def test_an_error_can_be_caught_as_the_builtin_it_resembles(error, builtin):
    """Code that knows nothing of bbio catches its errors as the fitting builtin."""
    assert issubclass(error, builtin)
    assert issubclass(error, BbioError)


@pytest.mark.parametrize("error", [DefinitionError, ConfigurationError, FrozenError, StackError])
def test_errors_for_the_developer_are_not_for_clients(error):
    """What is wrong with the program is no `SyncError`, so a client sees an `InternalError` instead."""
    assert not issubclass(error, SyncError)


def test_every_exception_of_the_module_has_the_one_base():
    """`except BbioError` catches whatever this package raises on purpose."""
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) > 15
    assert all(issubclass(e, BbioError) for e in found)


def test_declared_details_travel():
    """The details a class declares are in the JSON when given, and absent when not."""
    assert Invalid("no", fields={"title": "is empty"}).to_json()["fields"] == {"title": "is empty"}
    assert Conflict("stale", current={"id": 1}, rev=4).to_json() == {
        "name": "Conflict",
        "message": "stale",
        "code": 409,
        "current": {"id": 1},
        "rev": 4,
    }
    assert Busy("later", retry_after=1.5).to_json()["retry_after"] == 1.5
    assert "retry_after" not in Busy("later").to_json()


def test_a_subclass_declares_its_own_name_code_message_and_details():
    """The first line of the docstring is the message when none is given."""

    class Locked(SyncError):
        """This record is locked.

        More for the reader of the code.
        """

        code = 423
        details = ("by",)

    assert Locked(by="ann").to_json() == {
        "name": "Locked",
        "message": "This record is locked.",
        "code": 423,
        "by": "ann",
    }
    assert str(Locked("really locked")) == "really locked"


@pytest.mark.parametrize(
    ("bases", "name", "message"),
    [
        ((SyncError,), "OutOfStock", "Out of stock"),
        ((NotFound,), "Missing", "Missing"),
    ],
)
def test_a_subclass_without_a_docstring_is_named(bases, name, message):
    """The text of a base says what that is about; an error of one's own is told by its own name."""
    assert type(name, bases, {})().message == message


def test_the_base_itself_says_nothing_to_developers():
    """What its docstring tells the reader of the code is not for clients."""
    assert SyncError().message == "Sync error"


def test_a_detail_that_is_not_declared_is_refused_with_the_fix():
    """Nothing undeclared can travel; the text says what to declare."""
    with pytest.raises(TypeError, match=r"add it to Conflict\.details = \('current', 'rev', 'secret'\)"):
        Conflict("stale", secret="s3cret")


def test_attributes_set_on_an_error_do_not_travel():
    """Only name, message, code and declared details reach the client, whatever else the object carries."""
    error = NotFound("gone")
    error.query = "SELECT secret"
    error.add_note("secret")
    error.__cause__ = KeyError("secret")
    assert "secret" not in json.dumps(error.to_json())
