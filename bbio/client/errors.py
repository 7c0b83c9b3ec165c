"""Errors on a client: what the server sent, as the exceptions that they were there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bbio import errors
from bbio.errors import BadRequest, SyncError, Unauthorized

ERROR_CLASSES = {
    name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, SyncError)
}


class TooLarge(BadRequest):
    """The request is larger than the server takes; `size` and `limit` say it in bytes. It was not sent.

    Parameters:
        message: as of `SyncError`.
        size: the bytes of the request.
        limit: the bytes that the server takes at most, its `Limits.frame`.
        page_limit: see `BadRequest`.

    Example:
        >>> TooLarge(size=1_500_000, limit=1_000_000).limit
        1000000
    """

    code = 413
    details = ("page_limit", "size", "limit")
    size: int
    limit: int


class Dropped(SyncError):
    """It waited to be sent when another user connected; `method` and `model` are those of the write. It was not sent.

    Parameters:
        message: as of `SyncError`.
        method: `create`, `update`, `patch` or `delete`.
        model: the model as it was to be sent.

    Example:
        >>> Dropped(method="create", model={"title": "milk"}).model
        {'title': 'milk'}
    """

    code = 409
    details = ("method", "model")
    method: str
    model: Any


# Answers to a connection that the next one gets too, with what to look at.
LASTING_REFUSALS = {
    401: "does a proxy in front ask for a password?",
    403: "is the header Origin allowed? App(cors=...) allows others than the server's own",
    404: "is that where bbio is? see connect(path=...)",
}


def turned_away(status: int | None, url: str) -> SyncError | None:
    """The error for a connection that was refused with an HTTP status; None when another attempt may end otherwise.

    Example:
        >>> type(turned_away(404, "http://here"))
        <class 'bbio.errors.Unavailable'>
        >>> turned_away(503, "http://here")
    """
    hint = LASTING_REFUSALS.get(status or 0)
    if hint is None:
        return None
    kind = errors.Unavailable if status == 404 else errors.Forbidden
    return kind(f"the server refused the connection to {url} ({status}): {hint}")


def error_of(error: Any) -> SyncError:
    """The exception for what the server sent in `error`.

    It is one of `bbio.errors`, or a subclass of `SyncError` of that name that this program has defined (the latest);
    failing that, a plain `SyncError` of that name, with its code and details.

    Example:
        >>> error_of({"name": "NotFound", "message": "There is no such model.", "code": 404})
        NotFound('There is no such model.')
        >>> error_of({"name": "Locked", "message": "by ann", "code": 423, "by": "ann"}).to_json()
        {'name': 'Locked', 'message': 'by ann', 'code': 423, 'by': 'ann'}
    """
    fields: dict[str, Any] = dict(error) if isinstance(error, dict) else {"message": error}
    name, message, code = fields.pop("name", None), fields.pop("message", None), fields.pop("code", None)
    own = [cls for cls in _subclasses(SyncError) if cls.__name__ == name]
    cls = ERROR_CLASSES.get(name) or (own[-1] if own else None)
    if cls is None:
        name = name if isinstance(name, str) and name.isidentifier() else "SyncError"
        code = code if isinstance(code, int) else SyncError.code
        cls = type(name, (SyncError,), {"code": code, "details": tuple(fields), "__module__": __name__})
    err = cls.__new__(cls)  # an application's own class may take other parameters
    SyncError.__init__(err, str(message or ""), **{key: value for key, value in fields.items() if key in cls.details})
    return err


def _subclasses(cls: type[SyncError]) -> Iterator[type[SyncError]]:
    for subclass in cls.__subclasses__():
        if subclass.__module__ != __name__:
            yield subclass
            yield from _subclasses(subclass)


def passing(err: SyncError) -> bool:
    """Return whether the same request may succeed a little later."""
    return err.code >= 500 or err.code in (errors.Timeout.code, errors.Busy.code)


def is_end(error: Any) -> bool:
    """Return whether an error says that the client's identity has ended.

    Example:
        >>> is_end(Unauthorized(expired=True)), is_end(Unauthorized())
        (True, False)
    """
    return isinstance(error, Unauthorized) and getattr(error, "expired", None) is True
