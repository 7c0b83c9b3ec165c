"""Every exception bbio raises or sends.

Two families: errors for the developer (`DefinitionError`, `ConfigurationError`, `StackError`, `EncodingError`,
`BulkError`), raised in Python and never sent to a client, and `SyncError` with its subclasses, which reach the client
as `{"error": {"name", "message", "code", ...details}}` (docs/protocol.md, "Errors").
"""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar


class BbioError(Exception):
    """The base of every exception of this package.

    Example:
        >>> issubclass(NotFound, BbioError), issubclass(ConfigurationError, BbioError)
        (True, True)
    """


class DefinitionError(BbioError, TypeError):
    """A backend class is declared wrongly; the text shows the fix.

    Example:
        >>> from bbio import create
        >>> create("now")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        bbio.errors.DefinitionError: @create takes no arguments: it already names its sync method; ...
    """


class ConfigurationError(BbioError, ValueError):
    """An application cannot be assembled or started as configured; the text shows the fix.

    Example:
        >>> from bbio import Limits
        >>> Limits(deadline=0)
        Traceback (most recent call last):
        bbio.errors.ConfigurationError: Limits(deadline=0): it must be greater than 0
    """


class FrozenError(BbioError, RuntimeError):
    """Something was registered after the application had started.

    Example:
        `app.serve(Todos)` after `await app.start()`, or `Todos.use(layer)` after a backend of that class was served.
    """


class StackError(BbioError, RuntimeError):
    """A layer broke the rules of the middleware stack while running (called `next` twice, never answered).

    Example:
        `await next()` twice in one `use` layer; the client gets an `InternalError`.
    """


class EncodingError(BbioError, TypeError):
    """A value of the application cannot be written as JSON; the text names its place and its type, never the value.

    Parameters:
        value: the value.
        problem: what is wrong with it, in words that follow its place.

    Example:
        >>> str(EncodingError({1, 2}, "is a set, which JSON does not have"))
        'a value is a set, which JSON does not have'
    """

    def __init__(self, value: Any, problem: str) -> None:
        super().__init__(f"a value {problem}")
        self.value = value
        self.problem = problem
        # The answer of a handler that it was found in, where it is known.
        self.result: Any = None

    def locate(self, place: str) -> None:
        """Say in the text where the value is."""
        self.args = (f"{place} {self.problem}",)


class BulkError(BbioError, RuntimeError):
    """A bulk write has stopped; the text says at which row, and how many rows are stored. Its cause is `error`.

    Parameters:
        error: why.
        rows: how many rows are stored, from the first on: all before the batch that failed, and nothing of that.
        row: the number of the row that is at fault, counted from 1; None if it is not one row.

    Example:
        >>> err = BulkError(Invalid("the model is not valid", fields={"title": "is required"}), rows=500, row=731)
        >>> str(err)
        'row 731: the model is not valid: title is required; rows 1 to 500 are stored'
        >>> err.fields
        {'title': 'is required'}
    """

    def __init__(self, error: Exception, rows: int, row: int | None = None) -> None:
        self.error = error
        self.rows = rows
        self.row = row
        self.fields: dict[str, str] = getattr(error, "fields", None) or {}
        wrong = "; ".join(f"{path} {message}".lstrip() for path, message in self.fields.items())
        where = f"row {row}" if row is not None else "it stopped"
        why = f"{error}: {wrong}" if wrong else str(error) or type(error).__name__
        super().__init__(f"{where}: {why}; {self.stored}")
        self.__cause__ = error

    @property
    def stored(self) -> str:
        """Return in words which rows are stored."""
        return f"rows 1 to {self.rows} are stored" if self.rows else "no row is stored"


class SyncError(BbioError):
    """An error meant for the client. Subclass it to declare your own.

    Parameters:
        message: what the user of the client may read. By default the first line of the class's own docstring, else its
            name: "Out of stock" for `OutOfStock`.
        details: values for the names a subclass declares in `details`; each is an attribute, None when not given.

    Raises:
        TypeError: a detail is given that the class does not declare.

    Example:
        >>> class Locked(SyncError):
        ...     "This record is locked."
        ...     code = 423
        ...     details = ("by",)
        >>> Locked(by="ann").to_json()
        {'name': 'Locked', 'message': 'This record is locked.', 'code': 423, 'by': 'ann'}
    """

    code: ClassVar[int] = 400
    details: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str | None = None, **details: Any) -> None:
        unknown = [name for name in details if name not in self.details]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} declares no detail {unknown[0]!r}; "
                f"add it to {type(self).__name__}.details = {(*self.details, unknown[0])!r}"
            )
        if message is None:
            message = _default_message(type(self))
        for name in self.details:
            setattr(self, name, details.get(name))
        super().__init__(message)
        self.message = message
        self.values = details

    def to_json(self) -> dict[str, Any]:
        """Return the object that the client gets: name, message, code and the declared details."""
        return {"name": type(self).__name__, "message": self.message, "code": self.code, **self.values}


def _default_message(cls: type[SyncError]) -> str:
    # Not inspect.getdoc: it would find the text of a base, which is about something else.
    text = inspect.cleandoc(cls.__doc__ or "") if cls is not SyncError else ""
    return text.splitlines()[0] if text else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", cls.__name__).capitalize()


class BadRequest(SyncError, ValueError):
    """The request is malformed.

    Parameters:
        message: as of `SyncError`.
        page_limit: the number of models that one page may have, if the client has asked for more than one answer holds.

    Example:
        >>> BadRequest("name a list").to_json()
        {'name': 'BadRequest', 'message': 'name a list', 'code': 400}
    """

    code = 400
    details: ClassVar[tuple[str, ...]] = ("page_limit",)


class Unauthorized(SyncError, PermissionError):
    """Authentication is required.

    Parameters:
        message: as of `SyncError`.
        expired: true if the client was logged in, and is not any more.

    Example:
        >>> Unauthorized("log in first").to_json()
        {'name': 'Unauthorized', 'message': 'log in first', 'code': 401}
    """

    code = 401
    details: ClassVar[tuple[str, ...]] = ("expired",)


class Forbidden(SyncError, PermissionError):
    """This is not allowed.

    Example:
        >>> Forbidden("notes stay as they are").to_json()
        {'name': 'Forbidden', 'message': 'notes stay as they are', 'code': 403}
    """

    code = 403


class NotFound(SyncError, LookupError):
    """There is no such model.

    Example:
        >>> NotFound().to_json()
        {'name': 'NotFound', 'message': 'There is no such model.', 'code': 404}
    """

    code = 404


class Timeout(SyncError, TimeoutError):
    """The request took too long.

    Example:
        >>> Timeout().to_json()
        {'name': 'Timeout', 'message': 'The request took too long.', 'code': 408}
    """

    code = 408


class Conflict(SyncError):
    """The model was changed by someone else; `current` carries it and `rev` its revision.

    Parameters:
        message: as of `SyncError`.
        current: the stored model.
        rev: the revision of the stored model.

    Example:
        >>> conflict = Conflict("somebody was faster", current={"id": 7, "done": True}, rev=19)
        >>> conflict.current, conflict.rev
        ({'id': 7, 'done': True}, 19)
    """

    code = 409
    details = ("current", "rev")
    current: Any
    rev: int | None


class UnknownOutcome(SyncError):
    """It is not known whether an earlier attempt of this operation was applied.

    Example:
        >>> UnknownOutcome().code
        409
    """

    code = 409


class Invalid(SyncError, ValueError):
    """The model is not valid; `fields` maps a field to what is wrong with it (`address.city` is in `address`).

    Parameters:
        message: as of `SyncError`.
        fields: messages by the names of fields.

    Example:
        >>> Invalid("choose another name", fields={"name": "is taken"}).fields
        {'name': 'is taken'}
    """

    code = 422
    details = ("fields",)
    fields: Any


class Busy(SyncError):
    """Too many requests; try again after `retry_after` seconds.

    Parameters:
        message: as of `SyncError`.
        retry_after: the seconds to wait.

    Example:
        >>> Busy("five lists a minute", retry_after=12.0).retry_after
        12.0
    """

    code = 429
    details = ("retry_after",)
    retry_after: float | None


class InternalError(SyncError):
    """Internal error.

    bbio answers with it when the application raises anything that is not a `SyncError`.

    Parameters:
        message: as of `SyncError`.
        id: the id of the entry in the server's log.
        stack: the traceback, with `App(debug=True)` only.

    Example:
        >>> InternalError(id="f3a9").to_json()
        {'name': 'InternalError', 'message': 'Internal error.', 'code': 500, 'id': 'f3a9'}
    """

    code = 500
    details = ("id", "stack")


class Unavailable(SyncError, ConnectionError):
    """A part this request needs cannot be reached at the moment.

    Parameters:
        message: as of `SyncError`.
        retry_after: the seconds to wait before the request is tried again.

    Example:
        >>> Unavailable(retry_after=1.0).to_json()["message"]
        'A part this request needs cannot be reached at the moment.'
    """

    code = 503
    details = ("retry_after",)
    retry_after: float | None
