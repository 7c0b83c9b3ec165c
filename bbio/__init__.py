"""bbio: real-time model sync. A backend is a class; its decorated methods are compiled into middleware stacks.

Example:
    >>> from bbio import App, Backend
    >>> from bbio.builtin import MemoryStore
    >>> class Todos(Backend):
    ...     store = MemoryStore()
    >>> app = App()
    >>> list(app.serve(Todos).backends)
    ['todos']
"""

from bbio.app import App
from bbio.backend import Backend
from bbio.bulk import BulkProgress
from bbio.consumers import GiveUp
from bbio.decorators import (
    after,
    before,
    channel,
    create,
    delete,
    message,
    on_connect,
    on_error,
    patch,
    presence,
    read,
    update,
    use,
    visible,
)
from bbio.errors import (
    BadRequest,
    BbioError,
    BulkError,
    Busy,
    ConfigurationError,
    Conflict,
    DefinitionError,
    EncodingError,
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
from bbio.log import Log, MemoryLog
from bbio.model.schema import Schema, field
from bbio.outside import open as open  # not in __all__: `from bbio import *` must not hide the builtin
from bbio.query import QueryLimits
from bbio.requests import Found, Next, Request, Response
from bbio.runtime import Runtime
from bbio.server.limits import Limits
from bbio.sessions import SessionStore, StoredSession
from bbio.stack import Middleware
from bbio.store import Store
from bbio.streams import HistoryLimits

__version__ = "0.1.0"

__all__ = [
    "App",
    "Backend",
    "BadRequest",
    "BbioError",
    "BulkError",
    "BulkProgress",
    "Busy",
    "ConfigurationError",
    "Conflict",
    "DefinitionError",
    "EncodingError",
    "Forbidden",
    "Found",
    "FrozenError",
    "GiveUp",
    "HistoryLimits",
    "InternalError",
    "Invalid",
    "Limits",
    "Log",
    "MemoryLog",
    "Middleware",
    "Next",
    "NotFound",
    "QueryLimits",
    "Request",
    "Response",
    "Runtime",
    "Schema",
    "SessionStore",
    "StackError",
    "Store",
    "StoredSession",
    "SyncError",
    "Timeout",
    "Unauthorized",
    "Unavailable",
    "UnknownOutcome",
    "after",
    "before",
    "channel",
    "create",
    "delete",
    "field",
    "message",
    "on_connect",
    "on_error",
    "patch",
    "presence",
    "read",
    "update",
    "use",
    "visible",
]
