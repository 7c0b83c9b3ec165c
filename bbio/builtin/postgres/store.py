"""PostgresStore: models, events and operations in a PostgreSQL database, each write in one transaction.

Writes that wait together are committed together. Several processes may serve one database: rows are locked in an order
that all share, first models, then streams, so that offsets have no holes and their order is the order of commits.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import random
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

import attrs
import msgspec

from bbio import Request, Timeout, Unavailable, UnknownOutcome
from bbio.builtin import sql
from bbio.builtin.documents import (
    OPERATION_AGE,
    OPERATION_COUNT,
    Batch,
    Change,
    DocumentStore,
    Job,
    Key,
    Queue,
    Selected,
    Whole,
    Write,
    bytes_of,
    event_of,
    found_of,
    logger,
    not_made,
    now,
    record_text,
)
from bbio.builtin.postgres.beside import KEEP, Beside
from bbio.builtin.postgres.broker import PostgresBroker
from bbio.builtin.postgres.database import (
    Aborted,
    Database,
    InDoubt,
    NotMade,
    commit,
    driver,
    is_in_the_way,
    is_lost,
    is_refused,
    is_slow,
    words_of,
)
from bbio.builtin.postgres.existing import ExistingTable, adapted, undeclared
from bbio.builtin.postgres.ledger import PostgresLedger
from bbio.builtin.postgres.queries import queries_of
from bbio.builtin.postgres.scratch import copy_table, schema
from bbio.builtin.postgres.statements import (
    ADD_STREAMS,
    ADVANCE,
    ALL_TOPS,
    BACKEND,
    BEGIN_BULK,
    CATCH_UP_REVISIONS,
    CLAIM_TIDYING,
    COLLECT,
    FIND_BULK,
    FIND_LASTING_OPERATIONS,
    FIND_OPERATIONS,
    FIND_REVISIONS,
    FIND_STAMP,
    FORGET_BULK,
    FORGET_BULKS,
    FORGET_OPERATIONS,
    FORGET_STREAMS,
    INDEXES,
    KEEP_BULK,
    LOGGING,
    NEEDED,
    NEWEST_OPERATION,
    OUTGROWN,
    OWNERS,
    PENDING,
    SEQUENCE,
    SHRINK,
    SINCE,
    SINCE_WITH_WAS,
    TABLE_RULES,
    TELL,
    TOPS,
    TRIGGERS,
    TRIM,
    UP_TO,
)
from bbio.builtin.postgres.tables import (
    DRAW_REVISIONS,
    ID_TYPES,
    NOTIFY_CHANNEL,
    REVISIONS,
    Table,
    body_text,
    decoded,
    id_of,
    id_text,
    literal,
    quote,
    recheck_channel,
)
from bbio.builtin.postgres.triggers import made_of, triggers, without_triggers
from bbio.declared import Publisher
from bbio.errors import ConfigurationError, Conflict, Forbidden
from bbio.model.scalars import is_same
from bbio.protocol import decode, encode
from bbio.query import Query
from bbio.query.steps import call_each, run_in_turns
from bbio.requests import ENDLESS, SHORT_LIST, ListSize
from bbio.settings import Settings
from bbio.store import CHECKPOINT_SECONDS, Checkpoint, Promises, RowRefused, Scratch, gone_on, is_as_in
from bbio.streams import Commit, Event, Position
from bbio.typed import given_in, unset_in
from bbio.weight import decoded_bytes

# Seconds for a change of a table, which may be a large one.
SET_UP_SECONDS = 3600.0

# A stream's history is trimmed each time it has grown by so many events.
TRIM_EVERY = 250
# Seconds that a client's writes are made apart from those of others, after one was refused; the part of the time in
# which that may be done, and seconds between two turns of it at most.
SUSPECT_SECONDS = 10.0
SHARE_OF_SUSPECTS = 0.05
LONGEST_REST_SECONDS = 0.5
# How often a batch is tried when others write at the same time, or the connection is lost before its commit.
BATCH_ATTEMPTS = 5
# Texts of statements that are remembered: clients can have any number of them made, by what they leave out.
STATEMENTS = 500

# Ids that are drawn at once where some are taken; blocks of revisions that a transaction skips at most.
FREE_IDS_AT_ONCE = 100
MOST_BLOCKS = 10_000

# What is added to streams that are only locked; and what is kept of an event that no operation has brought about.
NOTHING_ADDED = (None, None, 0.0, 0, *(None,) * 6)
NONE = (None, None, None)

LOCK_ROWS = "FOR UPDATE OF t"
# What is otherwise found at the commit is found with the write that it is about.
CAREFUL = "; SET CONSTRAINTS ALL IMMEDIATE"

# Where revisions are kept.
KINDS_OF_TABLES = {"column": Table, "beside": Beside}

# How no table of models begins.
RESERVED_PREFIXES = ("bbio_", "pg_")


# The revision and body of a model, None where it is too large to be held together with others.
Held = tuple[int, bytes] | None


class StreamRow(msgspec.Struct):
    """A stream as its row was when it was locked, and how many events and bytes are added to it."""

    id: int
    name: str
    epoch: str
    top: int
    size: int
    trimmed: int
    stamp: int
    count: int = 0
    added: int = 0

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.top, self.stamp)


class Lookup(Job, kw_only=True):
    """A model to be read by its key, or an operation to be found, together with others."""

    key: Key | None = None
    operation: bytes = b""


class Worker:
    """Does the jobs that wait, all at once.

    Parameters:
        work: awaited with the jobs, to put into each what came of it, and to return those that it has left for the next
            turn; it must not raise.
        divert: asked of each job before; the worker leaves those alone of which it is true.
        share: the part of the time in which it may work: it rests after each turn.
    """

    def __init__(
        self,
        work: Callable[[list[Any]], Awaitable[Sequence[Any]]],
        divert: Callable[[Any], bool] = lambda job: False,
        share: float = 1.0,
    ) -> None:
        self._work = work
        self._divert = divert
        self._share = share
        self._queue = Queue(self._begin)
        self._task: asyncio.Task[None] | None = None
        self.submit = self._queue.submit
        self.add = self._queue.add
        self.finish = self._queue.finish

    def _begin(self, jobs: list[Any]) -> None:
        self._task = asyncio.ensure_future(self._run([job for job in jobs if not self._divert(job)]))

    async def _run(self, jobs: list[Any]) -> None:
        began = time.perf_counter()
        left = await self._work(jobs) if jobs else ()
        if left:
            later = set(map(id, left))
            jobs = [job for job in jobs if id(job) not in later]
        if self._share < 1.0:
            self._queue.tell(jobs)
            jobs = []
            await asyncio.sleep(min((time.perf_counter() - began) / self._share, LONGEST_REST_SECONDS))
        self._queue.settle(jobs, left)


class Suspects:
    """Clients whose writes the database has refused: for a while theirs are made apart, and keep others waiting less.

    Parameters:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Until when, and how many of their writes are being made apart.
        self._until: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._apart: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def accuse(self, change: Change) -> None:
        """A write of a client was refused."""
        client = _client_of(change)
        if client is not None:
            self._until[client] = self._clock() + SUSPECT_SECONDS

    def take(self, change: Change) -> bool:
        """Return whether to make a write apart. While one is, later writes of the same client follow it, in order."""
        client = _client_of(change)
        if client is None or not (self._apart.get(client) or self._until.get(client, 0.0) > self._clock()):
            return False
        assert change.future is not None
        self._apart[client] = self._apart.get(client, 0) + 1
        change.future.add_done_callback(lambda _: self._apart.update({client: self._apart[client] - 1}))
        return True


def _client_of(change: Change) -> Any:
    """The connection that a write came over, None for what the server itself writes."""
    return None if change.req is None else getattr(change.req.socket, "connection", None)


class PostgresStore(DocumentStore):
    """Keeps the models of one backend in a PostgreSQL database, with their events and operations.

    A write is acknowledged when PostgreSQL has committed it. Tables are made at the start. Any number of processes may
    serve the same table, and other programs may write to it: `bbio triggers` has their writes told to clients too.

    Parameters:
        dsn: where the database is, `postgresql://user:password@host:5432/database`; $BBIO_DATABASE_URL by default.
        table: the table of the models, `"sales.orders"` where it is in another schema; named like the backend by
            default. A new one has the columns `id`, `rev` and `body`.
        connections: how many connections requests may use at once; all stores of one DSN share them.
        timeout: seconds that a connection or a query may take; then the answer is `Timeout`.
        id_attribute: the name of the id in a model, Backbone's `idAttribute`.
        upsert: whether an update or patch of an unknown id creates the model, instead of `NotFound`.
        per_channel: whether every channel has models of its own.
        models: the initial models, stored when the table is new; each needs an id.
        zone: the time zone of times that an existing table keeps without one, in columns of the type `timestamp`.
        revisions: where the revision of each model is kept: in a `column` of its table, which is added, or `beside` it,
            in the table `bbio_revs`, so that nothing is added to somebody else's.
        history: how much of each stream is kept for clients that return.
        index: the fields that queries ask for: names, or tuples of names that are asked for together.
        queries: how much a query of a client may ask for.

    Raises:
        ConfigurationError: asyncpg is not installed, or there is no DSN; at the start of the application: the database
            cannot be used. The text says how to mend it.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     store = PostgresStore("postgresql://localhost/todos")
    """

    # Where servers tell each other of writes. In a test, the schemas of the tables that it keeps away from.
    channel = NOTIFY_CHANNEL
    _originals: list[str] | None = None

    definition = Table("", "id", False)
    _queries: sql.QueryTable
    # Makes the statements of the table, and remembers their texts.
    _statement: Callable[..., str]
    backend_id: int
    _begin: str
    # The columns that each rule of the table is about.
    _rules: dict[str, list[str]]
    as_planned = False

    _ids: Iterator[Any]
    # What numbers the models in SQL, where the ids are numbers.
    _source: str | None = None
    _database: Database
    _broker: PostgresBroker
    _writer: Worker
    _writer_apart: Worker
    _suspects: Suspects
    _reader: Worker
    # What is left of a block of revisions, each for the model that is given the next number.
    _spare: range

    def __init__(
        self,
        dsn: str | None = None,
        table: str | None = None,
        *,
        connections: int = 10,
        timeout: float = 5.0,
        zone: str | None = None,
        revisions: Literal["column", "beside"] = "column",
        **options: Any,
    ) -> None:
        super().__init__(table, **options)
        driver()
        self.zone = zone
        if revisions not in KINDS_OF_TABLES:
            raise ConfigurationError(
                f"PostgresStore(revisions={revisions!r}): they are kept in a 'column' of the table, or 'beside' it"
            )
        self._kind_of_table = KINDS_OF_TABLES[revisions]
        self.dsn = dsn or Settings.from_env().database_url
        self.connections = connections
        self.timeout = timeout
        if not self.dsn.startswith(("postgresql://", "postgres://")):
            raise ConfigurationError(
                "PostgresStore needs to know where the database is: "
                "PostgresStore('postgresql://user:password@host:5432/database'), or set BBIO_DATABASE_URL"
            )

    async def scratch(self, room: Scratch) -> Self:
        """Return this declaration over a schema of the test's own in the same database, with a table like the real one.

        Raises:
            ConfigurationError: the schema cannot be made; the text says how to mend it.
        """
        other = copy.copy(self)
        make = partial(schema, self.dsn, room.name, self.timeout)
        other.dsn, other._originals = await room.share(self.dsn, make)
        other.channel = room.name
        return other

    def open(self, backend: Any, publisher: Publisher) -> Self:
        opened = super().open(backend, publisher)
        name = opened.table
        parts = name.split(".", 1)
        if (
            "\0" in name
            or len(name.encode()) > 48
            or any(not part or part.startswith(RESERVED_PREFIXES) for part in parts)
        ):
            raise ConfigurationError(
                f"{name!r} cannot be the table of the models; choose another: PostgresStore(..., table='models')"
            )
        table = self._kind_of_table.of(name, self.id_attribute, self._per_channel, backend.schema)
        # A test keeps its tables in a schema of its own.
        opened.definition = attrs.evolve(table, is_apart=self._originals is not None)
        opened._ids = _ids()
        opened.broker = opened._broker = PostgresBroker(opened)
        milliseconds = int(self.timeout * 1000)
        opened._begin = (
            f"BEGIN; SET LOCAL bbio.own = '1'; SET LOCAL statement_timeout = {milliseconds};"
            f" SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
        )
        return opened

    def key(self, model: dict[str, Any]) -> Any:
        """The id in a model, None when there is none; from here on the model has it as the table does.

        Raises:
            BadRequest: it can be no id.
            NotFound: the table can have none like it.
        """
        key = super().key(model)
        if key is None:
            return None
        held = self.definition.held(key)
        if held is None:
            raise self.records.unknown(key)
        if held != key:
            model[self.id_attribute] = held
        return held

    # Start and end

    async def start(self) -> None:
        """Connect and make the table.

        Raises:
            ConfigurationError: the database or the table cannot be used; the text says how to mend it.
        """
        self._suspects = Suspects()
        self._writer = Worker(self._work, self._set_apart)
        self._writer_apart = Worker(partial(self._write, careful=True), share=SHARE_OF_SUSPECTS)
        self._reader = Worker(self._look_up)
        self._untidy = 0
        self._spare = range(0)
        self._database = await Database.open(self)
        try:
            async with self._database.connections.one() as connection, connection.transaction():
                await self._database.set_up(self, connection)
            self._broker.connect(self._database.wire, self.backend_id)
            self.control = self._database.control
            self.consumers = PostgresLedger(self.backend_id, self._database)
            self._database.serve(self)
        except BaseException as err:
            await self._database.close(self)
            if isinstance(err, Exception):
                raise ConfigurationError(self._database.explain(err)) from None
            raise

    async def stop(self) -> None:
        """Finish what is being written and let go of the database."""
        await self._writer.finish()
        await self._writer_apart.finish()
        await self._reader.finish()
        await self._database.close(self)

    async def install_triggers(self) -> None:
        """Have what other programs write to the table told to clients. Again, it changes nothing.

        Raises:
            ConfigurationError: the database cannot be used; the text says how to mend it.
        """
        async with self._at_hand() as connection:
            await connection.execute(triggers(self.definition))

    async def remove_triggers(self) -> None:
        """Have what other programs write told no more. Where it is not told, it changes nothing.

        Raises:
            ConfigurationError: the database cannot be used; the text says how to mend it.
        """
        async with self._at_hand() as connection:
            await connection.execute(without_triggers(self.definition))

    async def try_triggers(self, *, removed: bool = False) -> tuple[str, str]:
        """The SQL that `install_triggers` would run, tried in a transaction that is rolled back.

        Parameters:
            removed: whether it is that of `remove_triggers`.

        Returns: the SQL, and why it could not be tried: an empty text when it was.

        Raises:
            ConfigurationError: the database cannot be used, or the SQL fails; the text says how to mend it.
        """
        untried = ""
        async with self._at_hand(kept=False) as connection:
            statement = without_triggers(self.definition) if removed else triggers(self.definition)
            try:
                await connection.execute(statement)
            except driver().InsufficientPrivilegeError as err:
                untried = words_of(err)
        return statement, untried

    async def begin_epoch(self) -> None:
        """Have all clients read everything anew: a backup may lack writes that they have seen.

        Raises:
            ConfigurationError: the database cannot be used; the text says how to mend it.
        """
        async with self._at_hand() as connection:
            await connection.execute("SELECT bbio_begin_epoch($1)", self.table)

    @asynccontextmanager
    async def _at_hand(self, *, kept: bool = True) -> AsyncIterator[Any]:
        """A connection in a transaction, beside a running application or without one.

        Parameters:
            kept: whether what is done is committed; else it is rolled back.
        """
        self._database = Database(self.dsn, 1, self.timeout)
        try:
            async with self._database.connections.one() as connection:
                # After an error the connection is given up, or what is open on it is rolled back.
                transaction = connection.transaction()
                await transaction.start()
                await self._database.migrate(connection)
                await self._database.set_up(self, connection)
                yield connection
                await (transaction.commit() if kept else transaction.rollback())
        except Exception as err:
            raise ConfigurationError(self._database.explain(err)) from None
        finally:
            await self._database.connections.close()

    async def set_up(self, connection: Any) -> None:
        """Make the table in the transaction that is open, or see that it fits."""
        name = self.table
        table = self.definition = attrs.evolve(self.definition, keeps_was=self.keeps_was)
        found = await ExistingTable.look(connection, table)
        if found is None and not self.migrates:
            raise not_made(self._database.place, f"has no table {name!r}")
        await connection.execute(
            "INSERT INTO bbio_backends (name, epoch) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, secrets.token_hex(6)
        )
        self.backend_id, has_revs = await connection.fetchrow(BACKEND, name)
        if isinstance(table, Beside):
            table = self.definition = attrs.evolve(table, backend=self.backend_id)
        elif has_revs:
            raise ConfigurationError(
                f"the revisions of the models in {name!r} are kept beside the table: "
                f"PostgresStore(..., revisions='beside'); to give them up, and with them the conflicts of writes that "
                f"build on what was read before: DELETE FROM bbio_revs WHERE backend = {self.backend_id}"
            )
        is_new = found is None
        if is_new and self._originals is not None:
            original = attrs.evolve(table, is_apart=False)
            await copy_table(connection, name, self._originals, original.place if original.schema else None)
            found = await ExistingTable.look(connection, table)
        if found is not None:
            await self._adapt(connection, found, has_revs)
        else:
            await self._create(connection)
        if is_new:
            await self._insert_initial(connection)
        self._rules = dict(await connection.fetch(TABLE_RULES, self.definition.place))
        self._queries = queries_of(self.definition, self.indexes)
        self._statement = lru_cache(STATEMENTS)(self.definition.statement)
        if self.migrates:
            await self._index(connection)

    async def _create(self, connection: Any) -> None:
        schema = self.definition.schema
        if schema and not await connection.fetchval("SELECT to_regnamespace(quote_ident($1)) IS NOT NULL", schema):
            raise ConfigurationError(
                f"there is no schema {schema!r} for the table {self.table!r}; make it: CREATE SCHEMA {quote(schema)}"
            )
        await connection.execute(self.definition.create())

    async def _adapt(self, connection: Any, found: ExistingTable, has_revs: bool) -> None:
        """Bring a table that is there up to date; what it holds stays."""
        name, zone = self.table, self.zone
        if zone and not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)", zone
        ):
            raise ConfigurationError(
                f"PostgreSQL knows no time zone {zone!r}; name one: PostgresStore(..., zone='UTC')"
            )
        self.definition, statements = adapted(self.definition, found, zone)
        takes_over = isinstance(self.definition, Beside) and found.has_revisions and not has_revs
        if (statements or takes_over) and not self.migrates:
            raise not_made(f"the table {name!r} of {self._database.place}", "is not yet that of this model")
        place, id_name = self.definition.place, self.definition.id_name
        missing = {column.name for column in self.definition.columns if column.required} - found.columns.keys()
        if missing and await connection.fetchval(f"SELECT EXISTS (SELECT FROM {place})"):
            raise ConfigurationError(
                f"the table {name!r} holds models without {', '.join(sorted(missing))}: give what is new a default"
            )
        for statement in statements:
            await connection.execute(statement, timeout=SET_UP_SECONDS)
        moved = isinstance(self.definition, Beside) and await self._bring_beside(
            connection, self.definition, takes_over
        )
        owners = await connection.fetch(OWNERS, place, id_name)
        generated = {column: how for column, always, how, *_ in owners if always}
        # In a table that bbio made, the class of the models says what their defaults are.
        is_own = any(own for *_, own in owners)
        defaults = set() if is_own else {column for column, *_, default, _ in owners if default}
        self.definition = self.definition.with_owners(generated, defaults)
        unset = [column for column in undeclared(self.definition, found) if column not in generated.keys() | defaults]
        if unset:
            logger.warning(
                "%s: no model can be created, for nothing gives a value to %s: give each a default in the table, "
                "or declare it in the model",
                name,
                ", ".join(unset),
            )
        await self._choose_ids(connection, found)
        made = await connection.fetchval(TRIGGERS, place)
        if made is not None and (statements or moved):
            await connection.execute(triggers(self.definition))
        elif made is not None and not made.startswith(made_of(self.definition)):
            logger.warning(
                "%s: the triggers of its table were made by another version of bbio, or for other fields; "
                "run `bbio triggers MODULE:APP` again",
                name,
            )

    async def _bring_beside(self, connection: Any, table: Beside, is_new: bool) -> bool:
        """Bring the revisions up to date that are kept beside the table.

        Parameters:
            connection: the connection, in a transaction.
            table: the table.
            is_new: whether they have been in a column of bbio's.

        Returns: whether they were taken from there.
        """
        if is_new:
            await connection.execute(table.take_over(), timeout=SET_UP_SECONDS)
            logger.warning(
                "%s: revisions are kept beside the table from now on; its owner may drop the column that held them: "
                "ALTER TABLE %s DROP COLUMN rev",
                self.table,
                table.place,
            )
        else:
            await connection.execute(table.forget(), timeout=SET_UP_SECONDS)
        return is_new

    async def _choose_ids(self, connection: Any, found: ExistingTable) -> None:
        """See where the ids of new models come from."""
        table = self.definition
        if table.id_type == "uuid":
            self._ids = map(str, iter(uuid.uuid4, None))
        elif table.id_type in ID_TYPES:
            sequence = await connection.fetchval(SEQUENCE, table.place, table.id_name)
            default = found.columns[table.id_name].default
            self._source = default if "(" in default else f"nextval({literal(sequence)})" if sequence else None
            if self._source is None:
                top = await connection.fetchval(f"SELECT coalesce(max({table.id_column}), 0) FROM {table.place}")
                raise ConfigurationError(
                    f"nothing gives numbers to the column {table.id_name!r} of the table {self.table!r}; have "
                    f"PostgreSQL do so: ALTER TABLE {table.place} ALTER {table.id_column} "
                    f"ADD GENERATED BY DEFAULT AS IDENTITY (START {max(top, 0) + 1})"
                )
            self._ids = repeat(None)

    async def _index(self, connection: Any) -> None:
        """Make the indexes that are declared, and drop those that are no more."""
        declared = {}
        for fields, expressions in self._queries.index_expressions().items():
            digest = hashlib.blake2b(f"{self.table} {expressions}".encode(), digest_size=8).hexdigest()
            declared[f"bbio_{digest}"] = fields, expressions
        found = dict(await connection.fetch(INDEXES, self.definition.place))
        for name in found.keys() - declared.keys():
            await connection.execute(f"DROP INDEX {found[name]}")
        names = driver()
        unfit = (
            names.FeatureNotSupportedError,
            names.InvalidObjectDefinitionError,
            names.UndefinedObjectError,
            names.ProgramLimitExceededError,
        )
        for name in declared.keys() - found.keys():
            fields, expressions = declared[name]
            try:
                await connection.execute(
                    f"CREATE INDEX {name} ON {self.definition.place} ({expressions})", timeout=SET_UP_SECONDS
                )
            except unfit as err:
                advice = (
                    "name a table whose ids are short, and compared character by character"
                    if fields == self.id_attribute
                    else "leave that out of PostgresStore(..., index=[...])"
                )
                raise ConfigurationError(
                    f"PostgreSQL cannot index the table {self.table!r} by {fields!r}: {advice} ({words_of(err)})"
                ) from None

    async def _insert_initial(self, connection: Any) -> None:
        if self._initial:
            base = await connection.fetchval("SELECT nextval('bbio_revisions')")
            rows = [(("", self.key(model)), base + n, encode(model)) for n, model in enumerate(self._initial)]
            await connection.execute(self.definition.insert(), *self._arrays(rows))

    def _columns_of(self, keys: Iterable[Key]) -> list[list[Any]]:
        """Keys as the arrays that a statement takes."""
        keys = list(keys)
        ids = [id_text(key) for _, key in keys]
        return [[channel for channel, _ in keys], ids] if self._per_channel else [ids]

    def _arrays(self, rows: list[tuple[Key, int, bytes]]) -> list[list[Any]]:
        return [
            *self._columns_of(row[0] for row in rows),
            [row[1] for row in rows],
            [body_text(row[2]) for row in rows],
        ]

    # Writes

    async def _draw(self, changes: list[Change]) -> None:
        """Give numbers to new models, in their order, where the table numbers them."""
        new = [(change, change.key[0]) for change in changes if change.key is not None and change.key[1] is None]
        if new and self._source is not None:
            rows = await self._database.ask(self.definition.draw(self._source), len(new))
            for (change, channel), (id,) in zip(new, rows, strict=True):
                change.key = (channel, id)

    async def _draw_again(self, changes: list[Change]) -> bool:
        """Give other ids to new models whose ids are taken; whether there were any.

        A sequence falls behind where models are brought in with their ids, or where a crash takes back what was drawn.
        """
        if self._source is None:
            return False
        new = {change.key: change for change in changes if change.req and change.req.method == "create" and change.key}
        taken = await self._models(self._database.ask, list(new))
        free: list[int] = []
        count = FREE_IDS_AT_ONCE
        while len(free) < len(taken):
            rows = await self._database.ask(self.definition.draw_free(self._source), count)
            free += [row[0] for row in rows]
            count *= 2
        for key, id in zip(taken, free, strict=False):
            new[key].key = (key[0], id)
        return bool(taken)

    def submit(self, change: Change) -> asyncio.Future[Commit]:
        """Have a change made in the next batch."""
        return self._writer.submit(change)

    def submit_all(self, whole: Whole) -> asyncio.Future[list[Commit]]:
        """Have writes made in a transaction of their own, after what waits."""
        return self._writer.submit(whole)

    async def _work(self, jobs: list[Any]) -> list[Change]:
        """Do what has come together, and return what is left for another transaction."""
        changes = [job for job in jobs if not isinstance(job, Whole)]
        left = await self._write(changes) if changes else []
        for job in jobs:
            if isinstance(job, Whole):
                await self._write_whole(job)
        return left

    async def _write_whole(self, whole: Whole, lock: str = LOCK_ROWS, careful: bool = False) -> None:
        """Make writes in a transaction of their own: all of them, or none."""
        try:
            await self._draw(whole.changes)
            await self._try(whole.changes, lock, careful, whole)
        except Exception as err:
            if is_refused(err) and not careful:
                await self._write_whole(whole, lock, careful=True)  # which finds the one
            elif is_slow(err) and lock == LOCK_ROWS:
                await self._write_whole(whole, LOCK_ROWS + " SKIP LOCKED", careful)
            else:
                whole.error = self._database.error(err, self.table)
        else:
            doubt = next((change.error for change in whole.made if change.error), None)
            if doubt is None:
                whole.end()
            else:
                # Who goes on after a checkpoint finds out.
                whole.error = doubt if whole.step is None else Unavailable(retry_after=1.0)

    async def _write(self, changes: list[Change], lock: str = LOCK_ROWS, careful: bool = False) -> list[Change]:
        """Make changes in one transaction; those that PostgreSQL refuses, without the others.

        Returns: what is left for another transaction.
        """
        try:
            try:
                await self._draw(changes)
                return await self._try(changes, lock, careful)
            except Exception as err:
                if not is_refused(err):
                    raise
                if not careful:
                    return await self._write(changes, lock, careful=True)
                if len(changes) == 1:
                    self._refuse(changes[0], err)
                    return []
                # It is not a model that was refused. Find out whose write it is, and let the others pass.
                half = len(changes) // 2
                left = await self._write(changes[:half], lock, careful)
                return left + changes[half:] if left else await self._write(changes[half:], lock, careful)
        except Exception as err:
            if is_slow(err) and lock == LOCK_ROWS:
                # Perhaps another program holds some of the models: leave those out, and let the others pass.
                return await self._write(changes, LOCK_ROWS + " SKIP LOCKED", careful)
            error = self._database.error(err, self.table)
            for change in changes:
                change.error = error
            return []

    def _refuse(self, change: Change, err: Exception) -> None:
        req = change.req
        change.error = self._database.error(
            err, self.table, self._named_in(err, req), is_delete=req is not None and req.method == "delete"
        )
        self._suspects.accuse(change)

    def _named_in(self, err: Any, req: Request | None) -> Sequence[str]:
        """The fields that an error is about, or columns beside the model; none if the client may not see them all."""
        table = self.definition
        if getattr(err, "table_name", None) != table.relation:
            return ()
        columns = [err.column_name] if err.column_name else self._rules.get(err.constraint_name, ())
        names = [self.id_attribute if name == table.id_name else name for name in columns]
        beside = ("channel", *table.revised, *(("body",) if table.is_document else ()))
        return self.shown(names, req, beside)

    def _set_apart(self, change: Change | Whole) -> bool:
        """Return whether a write was handed over, to be made apart from others."""
        if isinstance(change, Whole) or not self._suspects.take(change):
            return False
        self._writer_apart.add(change)
        return True

    async def _try(self, changes: list[Change], lock: str, careful: bool, whole: Whole | None = None) -> list[Change]:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._transact(changes, lock, careful, whole)
            except Exception as err:
                again = is_in_the_way(err) or self._appeared(err) or (is_lost(err) and attempt == 1)
                cause = err.__cause__ if isinstance(err, Aborted) else err
                if isinstance(cause, driver().UniqueViolationError):
                    again = await self._draw_again(changes) or again
                if not again or attempt == BATCH_ATTEMPTS:
                    raise cause or err from None
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))

    def _appeared(self, err: Exception) -> bool:
        """Return whether another process has just added the same model."""
        return isinstance(err, driver().UniqueViolationError) and err.constraint_name == self.definition.rule

    async def _transact(self, changes: list[Change], lock: str, careful: bool, whole: Whole | None) -> list[Change]:
        batch = Batch(self, changes)
        try:
            async with self._database.connections.one() as connection:
                await connection.execute(self._begin + (CAREFUL if careful else ""))
                await self._load(connection, batch, lock)
                rev = batch.rev
                while writes := batch.turn():
                    await self._make(connection, batch, writes, careful)
                if whole is not None:
                    await self._keep_whole(connection, batch, whole)
                if all(change.error for change in batch.changes):
                    await connection.execute("ROLLBACK")
                    return batch.left
                batch.number()
                behind = (batch.rev - rev) // REVISIONS
                if behind:
                    await connection.execute(CATCH_UP_REVISIONS, min(behind, MOST_BLOCKS))
                if isinstance(self.definition, Beside):
                    await self._keep_revisions(connection, batch)
                # Last, as all writers wait for the streams. A repeated operation waits too: what it came to may be on
                # no disk, or on no standby, yet.
                streams = await self._log(connection, batch)
                await commit(connection)
                self._database.works(writing=True)
                events = batch.events
        except InDoubt:
            events = await self._settle_outcome(batch)
        # Not before it is certain, and not in the transaction, where all writers of the server would wait for it.
        for event in events if whole is None or whole.tells else ():
            self._broker.tell(event)
        if self._outgrown(streams.values()):
            await self.tidy()
        return batch.left

    async def _keep_whole(self, connection: Any, batch: Batch, whole: Whole) -> None:
        """Keep how far a bulk has come with a batch, if all of that can be made.

        Raises:
            RowRefused: a write cannot be made.
            Conflict: the bulk has gone on elsewhere.
        """
        try:
            whole.keep(batch)
            if whole.checkpoint is not None:
                name, start, checkpoint = whole.checkpoint
                values = (self.backend_id, name, checkpoint.rows, checkpoint.digest, now())
                moved = (ADVANCE, *values, start) if start else (BEGIN_BULK, *values)
                if not await connection.fetch(*moved):
                    raise gone_on(name)
        except (RowRefused, Conflict):
            await connection.execute("ROLLBACK")
            raise

    async def checkpoint(self, name: str) -> Checkpoint | None:
        rows = await self._database.ask(FIND_BULK, self.backend_id, name)
        return Checkpoint(*rows[0]) if rows else None

    async def set_checkpoint(self, name: str, checkpoint: Checkpoint | None) -> None:
        await self._database.ask(FORGET_BULKS, now() - CHECKPOINT_SECONDS)
        if checkpoint is None:
            await self._database.ask(FORGET_BULK, self.backend_id, name)
        else:
            values = (checkpoint.rows, checkpoint.digest, now(), checkpoint.is_done)
            await self._database.ask(KEEP_BULK, self.backend_id, name, *values)

    async def _keep_revisions(self, connection: Any, batch: Batch) -> None:
        """Keep the revisions of what a batch has changed beside the table."""
        if batch.changed:
            revs = [kept and kept[0] for kept in batch.changed.values()]
            channels, ids = zip(*batch.changed, strict=True)
            await connection.execute(KEEP, self.backend_id, channels, list(map(id_text, ids)), revs, batch.rev)

    async def _make(self, connection: Any, batch: Batch, writes: list[Write], careful: bool) -> None:
        """Make writes, no two of one model. With care, those that PostgreSQL refuses are left out."""
        if not careful:
            await self._store(connection, batch, writes)
            return
        await connection.execute("SAVEPOINT bbio")
        try:
            await self._store(connection, batch, writes)
        except Exception as err:
            if not is_refused(err):
                raise
            await connection.execute("ROLLBACK TO bbio; RELEASE bbio")
            if len(writes) > 1:
                # What PostgreSQL refuses is found in few steps.
                half = len(writes) // 2
                await self._make(connection, batch, writes[:half], careful)
                await self._make(connection, batch, writes[half:], careful)
            elif not await self._is_applied(connection, batch, writes[0].change):
                if self._appeared(err):
                    raise Aborted from err
                self._refuse(writes[0].change, err)
        else:
            await connection.execute("RELEASE bbio")

    async def _is_applied(self, connection: Any, batch: Batch, change: Change) -> bool:
        """Return whether the refused operation is one that another process has just applied."""
        if change.operation is not None:
            for operation, *rest in await connection.fetch(FIND_OPERATIONS, self.backend_id, [change.operation]):
                batch.replies[operation] = found_of(*rest)
        return change.operation in batch.replies

    async def _store(self, connection: Any, batch: Batch, writes: list[Write]) -> None:
        """Make writes. What a batch is told of them is what PostgreSQL has stored.

        Raises:
            NotMade: PostgreSQL has not made one of them, and has not said why, or has made of it what its client may
                not have.
        """
        made: dict[Write, dict[str, Any]] = {}
        # Those of one statement.
        alike: dict[Any, list[tuple[Write, list[Any]]]] = {}
        for write in writes:
            kind, values = self._kind(write)
            alike.setdefault(kind, []).append((write, values))
        for kind, asked in alike.items():
            made |= await self._returned(connection, self._statement(*kind), asked)
        gone = [write for write in writes if write not in made and write.method == "delete"]
        if gone:
            # A trigger may only mark a row: where a policy or a view then hides it, the model is deleted.
            left = await self._models(connection.fetch, [write.key for write in gone])
            made |= {write: write.record for write in gone if write.key not in left}
        if len(made) < len(writes):
            raise NotMade(
                Conflict("the database did not make this write: a trigger, a rule or a policy of its table stops it")
            )
        for write in writes:
            record = made[write]
            if write.stored is None:
                write.key = (write.key[0], record[self.id_attribute])
            self._check_written(write, record)
            batch.made(write, record, encode(record))

    def _check_written(self, write: Write, record: dict[str, Any]) -> None:
        """Look whether a client may have the record that a write came to: PostgreSQL may have made another of it."""
        req = write.change.req
        if req is not None and req.scope is not None and write.method != "delete":
            try:
                req.scope.check_written(write.stored, record)
            except Forbidden as err:
                raise NotMade(err) from None

    def _kind(self, write: Write) -> tuple[tuple[Any, ...], list[Any]]:
        """Return the kind of a write, which decides its statement, and the values that it takes beside the key."""
        table, req, record, stored = self.definition, write.change.req, write.record, write.stored
        if write.method == "delete":
            return ("delete",), []
        if stored is None:
            unset = unset_in(req)
            left = [column.name for column in table.columns if column.defaults and column.name in unset]
            return ("insert", frozenset(left)), [write.rev, body_text(encode(record))]
        changed: dict[str, Any] = {}
        lost: list[str] = []
        if record.keys() != stored.keys():
            changed = {name: record[name] for name in record.keys() - stored.keys()}
            # Of fields that the schema does not know, a later version of it may.
            lost = [] if self.schema is not None else list(stored.keys() - record.keys())
        for name in given_in(req, record):
            if name in stored and not is_same(record[name], stored[name]):
                changed[name] = record[name]
        changed.pop(self.id_attribute, None)
        values = [write.rev, body_text(encode(changed))] + ([encode(lost).decode()] if lost else [])
        return ("update", frozenset() if table.is_document else frozenset(changed), bool(lost)), values

    async def _returned(
        self, connection: Any, statement: str, asked: list[tuple[Write, list[Any]]]
    ) -> dict[Write, dict[str, Any]]:
        """Have a statement make writes; the models that it returns."""
        writes = [write for write, _ in asked]
        keys = self._columns_of(write.key for write in writes)
        rows = await connection.fetch(statement, *keys, *map(list, zip(*(values for _, values in asked), strict=True)))
        known = dict(zip(zip(*keys, strict=True), writes, strict=True))
        # New ones in the order in which they were given, whatever ids a trigger has given them.
        is_in_order = writes[0].stored is None and len(rows) == len(writes)
        of_rows = known if is_in_order else [row[: len(keys)] for row in rows]
        return {
            write: self._record(write, key[-1] == row[-2], *row[-2:])
            for key, row in zip(of_rows, rows, strict=True)
            if (write := known.get(key)) is not None
        }

    def _record(self, write: Write, is_id: bool, id: str, fields: str) -> dict[str, Any]:
        """Return the record that a write has stored, its fields in the order of the request as far as it named them."""
        stored = decoded(fields)
        stored[self.id_attribute] = write.key[1] if is_id else id_of(id)
        record = {**write.record, **stored}
        if len(record) > len(stored):
            record = {name: value for name, value in record.items() if name in stored}
        return record

    async def _settle_outcome(self, batch: Batch) -> list[Event]:
        """Find out what has become of a commit; if that cannot be, say so to those whose writes it held.

        Returns: the events that are committed.

        Raises:
            Aborted: nothing was written.
        """
        outcome = await self._outcome(batch)
        if outcome is False:
            raise Aborted
        if outcome:
            return batch.events
        changes = batch.changes
        logger.error("%s: it is not known whether %d writes were committed", self.table, len(changes))
        for change in changes:
            # An operation may be repeated, and is then told what it came to.
            change.error = change.error or (
                UnknownOutcome() if change.operation is None else Unavailable(retry_after=1.0)
            )
        return []

    async def _outcome(self, batch: Batch) -> bool | None:
        """Return whether a batch is committed and survives a crash; None when the answer does not come in time."""
        if not batch.events:
            return None
        # PostgreSQL ends a transaction that nobody is heard of any more after `timeout`.
        now = asyncio.get_running_loop().time
        end = now() + self.timeout + 1.0
        while (left := end - now()) > 0:
            with suppress(Exception):  # a lost connection, and what a cancelled request may turn into
                async with asyncio.timeout(left), self._database.connections.one() as connection:
                    found = await self._find(connection, batch)
                    # Only then it is certain that what was found stays, whatever happens.
                    await commit(connection)
                    return found
            await asyncio.sleep(0.05)
        return None

    async def _find(self, connection: Any, batch: Batch) -> bool | None:
        """Return whether the log holds the last event of a batch; None when the log does not reach back so far."""
        event = batch.events[-1]
        await connection.execute(self._begin)
        # This waits for a transaction that is still open.
        streams = await self._lock_streams(connection, batch.streams)
        row = streams[event.stream]
        if row.epoch != event.epoch:
            return None
        if row.top <= event.offset:
            return row.position == event.position
        stamp = await connection.fetchval(FIND_STAMP, row.id, event.offset)
        return None if stamp is None else bool(stamp == event.stamp)

    async def _load(self, connection: Any, batch: Batch, lock: str) -> None:
        """Tell a batch what it needs to know, and lock its models."""
        keys = batch.keys
        if keys:
            batch.rev, found = await self._lock(connection, keys, lock)
            batch.models = {key: held for key, held in found.items() if held is not None}
            if len(batch.models) < len(found):
                batch.end_before(found.keys() - batch.models.keys())
            if lock != LOCK_ROWS:
                held = (await self._models(connection.fetch, batch.keys)).keys() - batch.models.keys()
                batch.leave_out(held, Timeout("another program holds the model"))
        else:
            batch.rev = await self._draw_revisions(connection, len(batch.changes))
        stale = batch.stale
        if stale:
            places = list(map(list, zip(*stale, strict=True)))
            for name, rev, body in await connection.fetch(FIND_REVISIONS, self.backend_id, *places):
                key = stale[name, rev]
                if decode(body)[self.id_attribute] == key[1]:
                    batch.bases[key, rev] = body.encode()
        operations = batch.operations
        if operations:
            rows = await connection.fetch(FIND_OPERATIONS, self.backend_id, operations)
            batch.replies = {operation: found_of(*rest) for operation, *rest in rows}

    async def _draw_revisions(self, connection: Any, count: int) -> int:
        """Return the number before the first revision of new models."""
        # Where no model has had their ids, no revision was told before, and a block serves many batches.
        if len(self._spare) < count or self._source is not None:
            first = await connection.fetchval(DRAW_REVISIONS)
            self._spare = range(first, first + REVISIONS - 1)
        start, self._spare = self._spare.start, self._spare[count:]
        return start

    async def _lock(self, connection: Any, keys: list[Key], how: str) -> tuple[int, dict[Key, Held]]:
        """Lock models: what comes before their next revisions, and those that are there."""
        columns = self._columns_of(keys)
        rows = await connection.fetch(self._statement("lock", how), *columns)
        # Drawn when they are locked, so that the revisions of each model grow.
        return rows[0][0], self._held(keys, columns, [row[1:] for row in rows if row[1] is not None])

    async def _models(self, fetch: Any, keys: list[Key]) -> dict[Key, Held]:
        """Return the models that exist, by key."""
        columns = self._columns_of(keys)
        return self._held(keys, columns, await fetch(self._statement("select"), *columns))

    def _held(self, keys: list[Key], columns: list[list[Any]], rows: list[Any]) -> dict[Key, Held]:
        """Each model in rows, by its key."""
        texts = dict(zip(zip(*columns, strict=True), keys, strict=True))
        body = self.definition.body
        return {
            key: None if fields is None else (rev, body(key[1], fields))
            for *text, rev, fields in rows
            for key in (texts[tuple(text)],)
        }

    async def _lock_streams(
        self,
        connection: Any,
        names: list[str],
        statement: str = LOGGING[False, False],
        added: Iterable[Any] = NOTHING_ADDED,
    ) -> dict[str, StreamRow]:
        """Lock streams against other writers and return them as they were; add the given events to them."""
        while True:
            found = await connection.fetch(statement, self.backend_id, names, *added)
            streams = {row["name"]: StreamRow(*row[2:]) for row in found if row["name"] is not None}
            if found[0][0]:
                return streams
            missing = [name for name in names if name not in streams]
            if missing:
                await connection.execute(ADD_STREAMS, self.backend_id, missing, now())
            else:
                # Before what is to be written, which may build on it.
                await connection.execute(COLLECT, self.backend_id, names)

    async def _log(self, connection: Any, batch: Batch) -> dict[str, StreamRow]:
        """Log the events of a batch, and keep what its operations came to.

        Parameters:
            connection: the connection, in the transaction that has made the writes.
            batch: the batch, whose events are numbered within it.

        Returns: its streams as they were.
        """
        names, events = batch.streams, batch.events
        numbers = {name: number for number, name in enumerate(names, 1)}
        counts, sizes = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        for event in events:
            counts[event.stream] += 1
            sizes[event.stream] += len(event.body)
        ops = [event.op for event in events]
        added: list[Any] = [
            list(counts.values()),
            list(sizes.values()),
            events[-1].when if events else 0.0,
            batch.stamp,
            [numbers[event.stream] for event in events],
            [event.offset for event in events],
            [event.method for event in events],
            [event.body.decode() for event in events],
            [event.rev for event in events],
            ops if any(ops) else None,  # nothing but NULL is no array
        ]
        kept = {event: (operation, digest, record_text(whole)) for operation, digest, event, whole in batch.kept}
        if kept:
            added += zip(*(kept.get(event, NONE) for event in events), strict=True)
        if self.keeps_was:
            were = [None if event.was is None else event.was.decode() for event in events]
            added.append(were if any(were) else None)
        streams = await self._lock_streams(connection, names, LOGGING[bool(kept), self.keeps_was], added)
        for name, row in streams.items():
            row.count, row.added = counts[name], sizes[name]
        batch.place(streams)
        return streams

    async def tell_recheck(self, channel: str | None) -> None:
        """Have the other processes that serve the backend ask again who may listen."""
        payload = encode((self._database.wire.process, self.backend_id, channel)).decode()
        await self._database.ask(TELL, recheck_channel(self.channel), payload)

    # History

    def _outgrown(self, streams: Collection[StreamRow]) -> bool:
        """Return whether to trim: a stream has grown by many events, or too large, or there are many new streams."""
        self._untidy += len(streams)
        return self._untidy >= TRIM_EVERY or any(
            row.top + row.count - row.trimmed >= TRIM_EVERY
            or (row.added and row.size + row.added > self.history.size * 5 // 4)
            for row in streams
        )

    async def tidy(self) -> None:
        """Drop what the limits of history and operations no longer allow. An error is for the next time."""
        self._untidy = 0
        try:
            async with self._database.connections.one() as connection, connection.transaction():
                # One process at a time does it.
                if await connection.fetchval(CLAIM_TIDYING, self.backend_id):
                    await self._trim(connection)
        except Exception as err:
            self._database.note(err)

    async def _trim(self, connection: Any) -> None:
        history, at, backend = self.history, now(), self.backend_id
        most = history.for_consumers()
        for id, top in await connection.fetch(OUTGROWN, backend, TRIM_EVERY, history.size):
            needed = await connection.fetchval(NEEDED, id, backend)
            until = (top - history.events, at - history.age, needed, top - most.events, at - most.age)
            size = await connection.fetchval(TRIM, id, top, *until)
            if size > history.size:
                await connection.execute(SHRINK, id, history.size, needed, most.size)
        newest = await connection.fetchval(NEWEST_OPERATION)
        seen = self._seen.through(newest)
        await connection.execute(FORGET_OPERATIONS, 2 * TRIM_EVERY, at - OPERATION_AGE, seen, newest - OPERATION_COUNT)
        if await connection.fetchval(FORGET_STREAMS, backend, history.streams):
            # Should a forgotten stream begin again, its positions must not be taken for the earlier ones.
            await connection.execute("UPDATE bbio_backends SET epoch = $2 WHERE id = $1", backend, secrets.token_hex(6))

    # Reads

    async def _look_up(self, jobs: list[Lookup]) -> list[Lookup]:
        """Read models and find operations that were asked for at the same time; what is left for the next time."""
        keys = list({job.key: None for job in jobs if job.key is not None})
        operations = [job.operation for job in jobs if job.key is None]
        models: dict[Key, Held] = {}
        replies: dict[bytes, Any] = {}
        try:
            if keys:
                models = await self._models(self._database.ask, keys)
            if operations:
                rows = await self._database.ask(FIND_LASTING_OPERATIONS, self.backend_id, operations)
                replies = {operation: found_of(*rest) for operation, *rest in rows}
        except Exception as err:
            for job in jobs:
                job.error = err
        left = []
        for job in jobs:
            job.result = replies.get(job.operation) if job.key is None else models.get(job.key)
            if job.error is None and job.key in models and job.result is None:
                left.append(job)
        return left

    def look_up(self, key: Key) -> Awaitable[Any]:
        """The revision and body of a model, None when there is none."""
        return self._reader.submit(Lookup(key=key))

    def promises(self, method: str) -> Promises:
        """Return what a backend may rely on."""
        is_same = is_as_in(PostgresStore, self)
        passes_on = type(self) is PostgresStore
        return Promises(atomic=self.atomic, passes_on=passes_on, was=True, scoped=is_same, bulk=is_same)

    async def select(
        self,
        query: Query,
        scope: tuple[str, ...],
        client: object = None,
        most: ListSize = ENDLESS,
        passes_on: bool = False,
    ) -> Selected:
        """Find the models of a query."""
        statement, values = self._queries.select(query, scope, self.definition.id_column)
        if most != ENDLESS:
            values = [*values, int(most.json)]
            statement = UP_TO.format(statement, len(values))
        async with self._database.listing(self, client):
            rows = await self._database.ask(statement, *values, timeout=query.limits.seconds)
            seconds, bodies = query.limits.seconds, [body for _, body in rows]
            size = ListSize(1 + sum(map(bytes_of, bodies)))
            if SHORT_LIST < size.json <= most.json and not passes_on:
                size = ListSize(size.json, sum(await run_in_turns(call_each(decoded_bytes, bodies), seconds)))
            if not most.has_room_for(size):
                return None, [], None, size
            total = await self._count(query, scope) if query.count else None
        read = _encoded if passes_on else decoded
        models = await run_in_turns(call_each(read, bodies), seconds)
        return models, [rev for rev, _ in rows], total, size

    async def _count(self, query: Query, scope: tuple[str, ...]) -> int:
        statement, values = self._queries.count(query, scope)
        ((total,),) = await self._database.ask(statement, *values, timeout=query.limits.seconds)
        return int(total)

    def look_up_operation(self, operation: bytes) -> Awaitable[Any]:
        """The digest and event of an operation, None when it is new."""
        return self._reader.submit(Lookup(operation=operation))

    async def positions(self, streams: Iterable[str]) -> dict[str, Position]:
        """The top of each stream."""
        names = list(streams)
        rows = await self._database.ask(TOPS, self.backend_id, names)
        if any(row[-1] for row in rows):
            await self._collect(names)
            rows = await self._database.ask(TOPS, self.backend_id, names)
        return {name: Position(epoch, top, stamp) for name, epoch, top, stamp, _ in rows}

    async def tops(self) -> dict[str, Position]:
        """Return the top of each stream that has had an event, and under the empty name where others begin."""
        if pending := await self._database.ask(PENDING, self.backend_id):
            await self._collect([name for (name,) in pending])
        rows = await self._database.ask(ALL_TOPS, self.backend_id)
        return {name: Position(epoch, top, stamp) for name, epoch, top, stamp in rows}

    async def _collect(self, streams: list[str]) -> None:
        """Number what other programs have left for these streams. Whoever reads them does so, again and again."""
        while (await self._database.ask(COLLECT, self.backend_id, streams))[0][0]:
            pass

    async def since(self, stream: str, epoch: Any, offset: Any, stamp: Any = 0) -> list[Event] | None:
        """The events after a position, None when they are no longer all there, or the log holds another one there."""
        if type(epoch) is not str or type(offset) is not int or not 0 <= offset < 2**63:
            return None
        if "\0" in epoch or not epoch.isascii():
            return None
        statement = SINCE_WITH_WAS if self.keeps_was else SINCE
        rows = await self._database.ask(statement, self.backend_id, stream, epoch, offset)
        if rows[0][0]:
            await self._collect([stream])
            rows = await self._database.ask(statement, self.backend_id, stream, epoch, offset)
        _, at, top, found = rows[0][:4]
        if at != epoch or offset > top or (stamp and stamp != found):
            return None
        events = [event_of(stream, epoch, *rest) for _, _, _, _, *rest in rows if rest[0] is not None]
        return await self._all_in_full(events) if len(events) == top - offset else None


def _encoded(body: str) -> msgspec.Raw:
    """A model as JSON, for a list that goes to the client as it is."""
    return msgspec.Raw(encode(decoded(body)))


def _ids() -> Iterator[str]:
    """Ids in the order in which they are drawn, so that the newest are neighbours in the index; never drawn twice."""
    process, count = secrets.token_hex(4), 0
    while True:
        count = (count + 1) % 0x1_0000
        yield f"{time.time_ns() >> 20:011x}{count:04x}{process}"
