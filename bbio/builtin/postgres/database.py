"""A PostgreSQL database as the stores of one event loop share it: connections, migrations, news of other programs.

It may go away and come back at any time. Whoever needs it then is answered `Unavailable`, and connects again when asked
the next time; the session over which servers tell each other of writes comes back by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from bbio import BadRequest, Busy, Conflict, Forbidden, SyncError, Timeout, Unavailable
from bbio.builtin.documents import broken_rule, logger, not_made, refusals
from bbio.builtin.postgres.broker import POOLED, Wire, is_untold
from bbio.builtin.postgres.control import PostgresControl
from bbio.builtin.postgres.tables import MIGRATIONS, NOTIFY_CHANNEL, ORIGIN, SET_UP_LOCK
from bbio.errors import ConfigurationError
from bbio.ratelimit import RateLimitedLog

if TYPE_CHECKING:
    from bbio.builtin.postgres.store import PostgresStore

# Seconds between tidyings.
TIDY_SECONDS = 60.0
# Statements are planned anew when a connection is used so many times, and again at twice as many, and so on: a plan is
# made for tables as they are, and one for a table that was small reads all of it once it has grown.
REPLANNED = 64
# The oldest PostgreSQL whose SQL has all that is used here.
OLDEST = 13


# What is wrong with a database, and that it is over.
outages = RateLimitedLog(logger)

# Whatever the settings of the role are: `commit` hears of warnings, and who has waited for a lock sees what was
# committed meanwhile.
SETTINGS = "SET client_min_messages = warning; SET default_transaction_isolation = 'read committed'"


def driver() -> ModuleType:
    """The module asyncpg.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import asyncpg
    except ImportError:
        raise ConfigurationError("PostgresStore needs asyncpg: pip install bbio[postgres]") from None
    return asyncpg  # type: ignore[no-any-return]


def is_slow(err: BaseException) -> bool:
    """Return whether an error says that something took too long."""
    return isinstance(err, (TimeoutError, driver().QueryCanceledError, driver().LockNotAvailableError))


def is_lost(err: BaseException) -> bool:
    """Return whether an error says that there is no connection, or that it was lost."""
    names = driver()
    lost = (OSError, names.PostgresConnectionError, names.OperatorInterventionError, names.TooManyConnectionsError)
    # The last two are asyncpg's own, of a connection that is in no state to be used.
    own = (names.InterfaceError, names.InternalClientError)
    return isinstance(err, (*lost, *own)) and not is_slow(err) and not is_refused(err)


def is_of_database(err: BaseException) -> bool:
    """Return whether an error comes from PostgreSQL or from the connection to it."""
    names = driver()
    own = (names.PostgresError, names.InterfaceError, names.InternalClientError)
    return isinstance(err, (*own, OSError, EOFError, ConfigurationError))


def is_in_the_way(err: BaseException) -> bool:
    """Return whether an error says that others wrote at the same time, so that a retry may succeed."""
    names = driver()
    if isinstance(err, names.UniqueViolationError):
        return bool(err.constraint_name == "bbio_operations_once")
    return isinstance(err, (names.SerializationError, names.DeadlockDetectedError, Aborted)) and not is_raised(err)


def is_raised(err: BaseException) -> bool:
    """Return whether a function of the table's owner raised the error, with a code of its own choice."""
    context = getattr(err, "context", None) or ""
    return context.partition("\n")[0].endswith(" RAISE")


# Beginnings of SQLSTATE that are about the connection, the server or what it needs, others that write at the same time,
# or who may connect to what.
OF_DATABASE = ("08", "25", "28", "3D", "40", "53", "57", "58", "F0", "XX", "55P03")
# Of the others, those that are about the tables themselves: no client has caused them.
OF_TABLES = ("0A", "2F", "38", "39", "3F", "42", "HV")
# Of those whose messages name tables and columns, and no values.
WITHOUT_VALUES = ("0A", "42", "54", "55")
# How the context of an error names a function, of any language.
FUNCTION = re.compile(r"(PL/\w+|SQL) function ")


def is_refused(err: BaseException) -> bool:
    """Return whether an error is about this statement alone: without it, the rest of the transaction would pass."""
    names = driver()
    if isinstance(err, names.PostgresError):
        state = err.sqlstate or "XX"
        return not state.startswith(OF_DATABASE) or (state.startswith("40") and is_raised(err))
    # The last is the driver's own, about a value.
    return isinstance(err, NotMade) or (isinstance(err, names.InterfaceError) and isinstance(err, ValueError))


def refusal_of(err: BaseException, names: Sequence[str] = (), *, is_delete: bool = False) -> SyncError | None:
    """Return the error that a client gets when its statement fails; None when the client cannot be at fault.

    Parameters:
        err: the error.
        names: the fields that it is about, as far as that is known and the client may know it.
        is_delete: whether it is about a delete.
    """
    if isinstance(err, NotMade):
        return err.answer
    state = getattr(err, "sqlstate", None) or "22"
    if state == "42501":
        return Forbidden("the database does not allow this")
    if state.startswith("54"):
        return BadRequest("the model, or a part of it, is too large for the database")
    if state.startswith("22"):
        return BadRequest("the model holds a value that the database cannot keep")
    if state.startswith(OF_TABLES):
        return None
    if is_delete and state == "23503":
        return Conflict("something in the database still refers to this model")
    return broken_rule(state, names)


def words_of(err: BaseException) -> str:
    """Describe an error for the log: its kind and code, the table and the broken rule.

    PostgreSQL repeats values in the details of errors, and in the messages of some, which are left out.
    """
    names = driver()
    kind = type(err).__name__
    if not isinstance(err, names.PostgresError):
        # The driver's own error about a value is a ValueError too.
        return kind if isinstance(err, names.InterfaceError) and isinstance(err, ValueError) else f"{kind}: {err}"
    state = err.sqlstate or ""
    # The innermost function comes first: the trigger that has raised it.
    lines = (getattr(err, "context", None) or "").splitlines()
    functions = list(filter(FUNCTION.match, lines))
    # A function may have put a value into a name, and words of its own are not PostgreSQL's.
    if not functions and (not is_refused(err) or (state.startswith(WITHOUT_VALUES) and not lines)):
        return f"{kind} {state}: {err.args[0]}"
    about = [
        f"{what} {getattr(err, attribute)}"
        for what, attribute in (
            ("table", "table_name"),
            ("rule", "constraint_name"),
            ("column", "column_name"),
            ("type", "data_type_name"),
        )
        if getattr(err, attribute, None)
    ]
    return ", ".join([f"{kind} {state}", *about, *functions[:1]])


class Aborted(Exception):
    """A transaction was not committed."""


class NotMade(Exception):
    """A write was not refused, and yet it is not made, or is not to be.

    Parameters:
        answer: what its client is told.
    """

    def __init__(self, answer: SyncError) -> None:
        super().__init__(str(answer))
        self.answer = answer


class InDoubt(Exception):
    """It is not known whether a transaction was committed, or whether that will last."""


# The last that PostgreSQL has said, beside its answers, over each connection.
_said: WeakKeyDictionary[Any, deque[Any]] = WeakKeyDictionary()


async def commit(connection: Any) -> None:
    """Commit the transaction that is open.

    Raises:
        InDoubt: the connection was lost, it took too long, or PostgreSQL warns: somebody ended the wait for a standby.
    """
    said = _said[connection]
    said.clear()
    try:
        await connection.execute("COMMIT")
    except Exception as err:
        if is_lost(err) or is_slow(err):
            raise InDoubt from err
        raise
    if said:
        raise InDoubt(said[0])


class Shares:
    """Turns of which each of those that ask has so many at once.

    Parameters:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        # With how many have or wait for a turn of each.
        self._turns: dict[object, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def turn(self, key: object) -> AsyncIterator[None]:
        """A turn of a key, once there is one."""
        turns, users = self._turns.get(key) or (asyncio.Semaphore(self._size), 0)
        self._turns[key] = turns, users + 1
        try:
            async with turns:
                yield
        finally:
            _, users = self._turns[key]
            if users > 1:
                self._turns[key] = turns, users - 1
            else:
                del self._turns[key]


class Connections:
    """Connections that take turns, opened when they are needed.

    Parameters:
        database: whose.
        size: how many there may be.
        timeout: seconds to wait for one.
    """

    def __init__(self, database: Database, size: int, timeout: float) -> None:
        self._database = database
        self._timeout = timeout
        self._turns = asyncio.Semaphore(size)
        self._idle: deque[Any] = deque()
        self._uses: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Any]:
        """A connection of one's own for a while. It is not used again after anything but an error of PostgreSQL's.

        Raises:
            Busy: all are in use, for too long.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise Busy("too many requests use the database", retry_after=1.0) from None
        connection, usable = None, False
        try:
            connection = self._reuse() or await self._database.connect()
            if self._is_to_replan(connection):
                await connection.execute("DISCARD PLANS")
            yield connection
            usable = True
            self._database.works()
        except Exception as err:
            if is_lost(err):
                # So may all the others be, without having noticed yet.
                while self._idle:
                    self._discard(self._idle.pop())
            elif connection is not None and (isinstance(err, (driver().PostgresError, Aborted)) or is_refused(err)):
                # Something was refused: that ends a transaction, not the connection.
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
                usable = True
            raise
        finally:
            if usable:
                self._idle.append(connection)
            elif connection is not None:
                self._discard(connection)
            self._turns.release()

    def _reuse(self) -> Any:
        return self._idle.pop() if self._idle else None

    def _is_to_replan(self, connection: Any) -> bool:
        """Return whether the server plans the statements anew for this use of a connection."""
        uses = self._uses[connection] = self._uses.get(connection, 0) + 1
        return uses >= REPLANNED and uses.bit_count() == 1

    def _discard(self, connection: Any) -> None:
        task = asyncio.ensure_future(close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close those that are idle, and wait for those that are being closed."""
        while self._idle:
            self._discard(self._idle.pop())
        while self._closing:
            await asyncio.wait(self._closing)


async def close(connection: Any) -> None:
    """Let go of a connection; what it still does is cancelled."""
    # What is wrong with it is no longer of interest.
    with suppress(Exception):
        await connection.close(timeout=2.0)


class Database:
    """One database, shared by all stores of an event loop that name it by the same DSN.

    Parameters:
        dsn: where it is.
        size: how many connections requests may use at once; one more listens.
        timeout: seconds that a query may take.
        channel: where its servers tell each other of writes.
        migrates: whether tables may be made and brought to this version.
    """

    _opened: ClassVar[dict[tuple[str, asyncio.AbstractEventLoop], Database]] = {}
    _started: asyncio.Future[None]

    def __init__(
        self, dsn: str, size: int, timeout: float, channel: str = NOTIFY_CHANNEL, *, migrates: bool = True
    ) -> None:
        self.dsn = dsn
        self._migrates = migrates
        self.timeout = timeout
        self.channel = channel
        self.connections = Connections(self, size, timeout)
        # Lists take long, and are asked for by anybody: they have half of the connections, those of one backend half of
        # these, and those of one client leave the backend one for others.
        half = max(1, size // 2)
        quarter = max(1, half // 2)
        self._lists, self._lists_of_store = Shares(half), Shares(quarter)
        self._lists_of_client = Shares(max(1, quarter - 1))
        self.stores: list[PostgresStore] = []
        # Those that are set up.
        self._ready: list[PostgresStore] = []
        self.control = PostgresControl(self)
        self.wire = Wire(self, self.control.look)
        # Whether something was wrong; and whether only a write can tell that it is over.
        self._failing = self._failing_writes = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def place(self) -> str:
        """Return the address of the database, without the password."""
        parts = urlsplit(self.dsn)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    # Start and end

    @classmethod
    async def open(cls, store: PostgresStore) -> Database:
        """The database of a store, started when it is the first.

        Raises:
            ConfigurationError: the database cannot be used; the text says why.
        """
        place = (store.dsn, asyncio.get_running_loop())
        database = cls._opened.get(place)
        if database is None:
            database = cls._opened[place] = cls(
                store.dsn, store.connections, store.timeout, store.channel, migrates=store.migrates
            )
            database._started = asyncio.ensure_future(database._start())
        try:
            await asyncio.shield(database._started)
        except Exception as err:
            cls._opened.pop(place, None)
            raise ConfigurationError(database.explain(err)) from None
        for other in database.stores:
            if other.table == store.table:
                raise ConfigurationError(
                    f"two backends keep their models in the table {store.table!r} of {database.place}; "
                    "name another: PostgresStore(..., table=...)"
                )
        database.stores.append(store)
        return database

    async def _start(self) -> None:
        try:
            async with self.connections.one() as connection:
                await self.migrate(connection)
            await self.control.start()
            await self.wire.start()
            self._tasks.append(asyncio.ensure_future(self._tidy()))
        except BaseException:
            await self._end()
            raise

    async def close(self, store: PostgresStore) -> None:
        """A store needs this no more; the last one closes all connections."""
        self.stores.remove(store)
        if store in self._ready:
            self._ready.remove(store)
        if not self.stores:
            del self._opened[self.dsn, asyncio.get_running_loop()]
            await self._end()

    async def _end(self) -> None:
        await self.wire.stop()
        await self.control.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.connections.close()

    async def connect(self) -> Any:
        """A new connection, to a database that is what it was."""
        connection = await driver().connect(
            self.dsn,
            timeout=self.timeout,
            # A little more than PostgreSQL is told, which ends a statement in a better way.
            command_timeout=self.timeout + 1.0,
            statement_cache_size=500,
            max_cached_statement_lifetime=0,
        )
        said = _said[connection] = deque[Any](maxlen=1)
        connection.add_log_listener(lambda _, message: said.append(message))
        try:
            await connection.execute(SETTINGS)
            await self._check_origin(connection)
        except BaseException:
            await close(connection)
            raise
        self.works()
        return connection

    async def ask(self, statement: str, *values: Any, timeout: float | None = None) -> list[Any]:
        """The rows that a statement finds; once more if the connection turns out to be lost.

        Parameters:
            statement: the statement, which changes nothing.
            values: what is bound to it.
            timeout: seconds that it may take; those of the database by default.

        Raises:
            SyncError: what a client is to be told.
        """
        try:
            return await self._ask(statement, *values, timeout=timeout)
        except Exception as err:
            if not is_lost(err):
                raise self.error(err) from None
        try:
            return await self._ask(statement, *values, timeout=timeout)
        except Exception as err:
            raise self.error(err) from None

    @asynccontextmanager
    async def listing(self, store: PostgresStore, client: object) -> AsyncIterator[None]:
        """A turn to ask for a list, which takes no connection from writes and look-ups.

        Parameters:
            store: whose models are asked for.
            client: who asks; None for the server itself, which waits for nobody's lists but all.

        Raises:
            Busy: too many lists are asked for, for too long.
        """
        async with AsyncExitStack() as turns:
            try:
                async with asyncio.timeout(self.timeout):
                    if client is not None:
                        await turns.enter_async_context(self._lists_of_client.turn((store, client)))
                    await turns.enter_async_context(self._lists_of_store.turn(store))
                    await turns.enter_async_context(self._lists.turn(None))
            except TimeoutError:
                raise Busy("too many lists are asked for", retry_after=1.0) from None
            yield

    async def _ask(self, statement: str, *values: Any, timeout: float | None) -> list[Any]:
        async with self.connections.one() as connection:
            rows: list[Any] = await connection.fetch(statement, *values, timeout=timeout or self.timeout)
            return rows

    async def migrate(self, connection: Any) -> None:
        """Make the tables of bbio, or bring them to this version. Several processes may do so at once.

        Raises:
            ConfigurationError: PostgreSQL is too old, or the tables are of a newer version of bbio.
        """
        server = connection.get_server_version()
        if server.major < OLDEST:
            raise ConfigurationError(
                f"{self.place} is PostgreSQL {server.major}, and bbio needs {OLDEST} or newer: update PostgreSQL"
            )
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({SET_UP_LOCK})")
            if await connection.fetchval("SELECT to_regclass('bbio_database')") is None:
                if not self._migrates:
                    raise not_made(self.place, "has no tables of bbio")
                await connection.execute("CREATE TABLE bbio_database (version integer NOT NULL, origin text)")
                await connection.execute("INSERT INTO bbio_database VALUES (0, NULL)")
            version = await connection.fetchval("SELECT version FROM bbio_database")
            if version > len(MIGRATIONS):
                raise ConfigurationError(f"{self.place} was used by a newer version of bbio: update bbio")
            if version < len(MIGRATIONS) and not self._migrates:
                raise not_made(self.place, "was used by an older version of bbio, whose servers may run")
            for migration in MIGRATIONS[version:]:
                await connection.execute(migration)
            if version < len(MIGRATIONS):
                await connection.execute("UPDATE bbio_database SET version = $1", len(MIGRATIONS))
        await self._check_origin(connection)

    async def set_up(self, store: PostgresStore, connection: Any) -> None:
        """Have a store make its table in the transaction that is open. Several processes may do so at once."""
        await connection.execute(f"SELECT pg_advisory_xact_lock({SET_UP_LOCK})")
        await store.set_up(connection)

    def serve(self, store: PostgresStore) -> None:
        """Tidy up what a store that is set up no longer needs."""
        self._ready.append(store)

    async def _check_origin(self, connection: Any) -> None:
        """Begin a new epoch when the database was restored: it may lack events that clients have seen."""
        if await connection.fetchval("SELECT to_regclass('bbio_streams')") is None:
            return  # still to be made
        try:
            async with connection.transaction():
                origin = await connection.fetchval(ORIGIN)
        except driver().PostgresError:
            return  # a service that keeps this from its users
        if await connection.fetchval("SELECT origin FROM bbio_database") == origin:
            return
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({SET_UP_LOCK})")
            known = await connection.fetchval("SELECT origin FROM bbio_database")
            if known != origin:
                await connection.execute("SELECT bbio_begin_epoch()")
                await connection.execute("UPDATE bbio_database SET origin = $1", origin)
                if known is not None:
                    logger.warning("%s was restored or moved: clients read everything anew", self.place)

    # Now and then

    async def _tidy(self) -> None:
        """Now and then, drop what the limits no longer allow of what triggers and processes that ended have logged."""
        while True:
            await asyncio.sleep(TIDY_SECONDS * random.uniform(0.5, 1.5))
            for store in list(self._ready):
                await store.tidy()

    # Errors

    def note(self, err: Exception) -> None:
        """Tell the log of an error that no client waits for."""
        if self.error(err) is err and not isinstance(err, SyncError):
            logger.error("%s: a fault of the server itself", self.place, exc_info=err)

    def error(
        self, err: Exception, table: str = "", names: Sequence[str] = (), *, is_delete: bool = False
    ) -> Exception:
        """Return what a client is told of an error of the database; the log is told once.

        A fault of the server itself is returned as it is: whoever asked logs it whole.

        Parameters:
            err: the error.
            table: the table that was written to; empty where something was read.
            names: the fields that it is about, as far as that is known and the client may know it.
            is_delete: whether it is about a delete.
        """
        if is_in_the_way(err):
            # Again and again.
            refusals.warning("%s: a request was refused, as others wrote: %s", table or self.place, words_of(err))
            return Unavailable("others wrote the same at the same time", retry_after=1.0)
        if is_untold(err):
            refusals.warning("%s: PostgreSQL has no place for notifications: %s", self.place, words_of(err))
            return Unavailable("the database cannot tell other processes at the moment", retry_after=1.0)
        if isinstance(err, NotMade) and isinstance(err.answer, Forbidden):
            return err.answer  # it is bbio that does not allow it
        if isinstance(err, SyncError) or not (is_of_database(err) or is_refused(err)):
            return err
        if is_slow(err):
            return Timeout("the database took too long")
        refusal = refusal_of(err, names, is_delete=is_delete) if is_refused(err) else None
        if refusal is not None:
            refusals.warning("%s: a request was refused: %s", table or self.place, words_of(err))
            return refusal
        if not self._failing:
            self._failing = True
            if outages.admits(logging.ERROR):
                logger.error("%s", self.explain(err))
        # A full disk, or a table that is not what it was, is no hindrance to all that reads.
        self._failing_writes |= not is_lost(err) and (bool(table) or is_refused(err))
        return Unavailable("the database cannot be used at the moment", retry_after=1.0)

    def works(self, writing: bool = False) -> None:
        """Something went well; the log is told, where it was told of something wrong.

        Parameters:
            writing: whether it was a write.
        """
        if self._failing and (writing or not self._failing_writes):
            self._failing = self._failing_writes = False
            outages.warning("%s works again", self.place)

    def explain(self, err: BaseException) -> str:
        """Explain a fault of the database and how to mend it."""
        if isinstance(err, ConfigurationError):
            return str(err)
        names = driver()
        hints: list[tuple[Any, str]] = [
            (names.InvalidAuthorizationSpecificationError, "it does not let this user in: correct user and password"),
            (names.InvalidCatalogNameError, "there is no such database: make it, createdb NAME"),
            (names.InsufficientPrivilegeError, "permission denied: grant the rights listed in docs/stores.md"),
            (names.TooManyConnectionsError, "it has no connection left: raise its max_connections, or use fewer"),
            (names.DiskFullError, "its disk is full: make room"),
            (names.ReadOnlySQLTransactionError, "it is a standby, or read only: name the primary"),
            (names.CannotConnectNowError, "it is starting or stopping: wait a moment"),
            (ValueError, "the DSN is wrong: postgresql://user:password@host:5432/database"),
            (TimeoutError, "it does not answer: is that its address, and does a firewall let this through?"),
            (OSError, "nothing answers there: start PostgreSQL, or correct host and port"),
            ((names.InterfaceError, names.InternalClientError), "the connection was lost"),
            (names.PostgresConnectionError, "the connection was lost"),
            ((names.InvalidSQLStatementNameError, names.DuplicatePreparedStatementError), POOLED),
            (names.OperatorInterventionError, "it is being stopped, or ended the connection"),
        ]
        hint = next((text for kind, text in hints if isinstance(err, kind)), "look at what PostgreSQL says")
        return f"{self.place} cannot be used: {hint} ({words_of(err)})"
