"""A schema of its own for each test, in the database that an application names; it is dropped after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from bbio.builtin.documents import logger
from bbio.builtin.postgres.database import Database, close, driver
from bbio.builtin.postgres.tables import quote
from bbio.errors import ConfigurationError

# Tells schemas of tests from others. Whoever made one holds a lock on its name: where nobody does, the test is over.
COMMENT = "made by app.test() of bbio; the next one drops it"
# The setting, as a part of a DSN, that says in which schema tables are.
SEARCH_PATH = "search_path"
OTHERS = """
SELECT nspname FROM pg_namespace
WHERE starts_with(nspname, 'bbio_test_') AND obj_description(oid, 'pg_namespace') = $1"""
TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended($1, 0))"

ORIGINAL = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $1 AND n.nspname = ANY ($2::text[]) AND c.relkind IN ('r', 'p')
ORDER BY array_position($2::text[], n.nspname::text) LIMIT 1"""
# Columns of a copied table that are numbered by a sequence: where it is, its name, and whether it is the column's own.
NUMBERED = """
SELECT a.attname, pg_get_expr(d.adbin, d.adrelid), s.oid::regclass::text, s.relname,
    pg_get_serial_sequence($2, a.attname)::regclass = s.oid
FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
WHERE d.adrelid = to_regclass(quote_ident($1))"""


@asynccontextmanager
async def schema(dsn: str, name: str, timeout: float) -> AsyncIterator[tuple[str, list[str]]]:
    """Make a schema in a database, and drop it at the end.

    Parameters:
        dsn: where the database is.
        name: the name of the schema.
        timeout: seconds that a query may take.

    Returns: a DSN whose tables are those of the schema, and the schemas that the tables of the given DSN are in.

    Raises:
        ConfigurationError: the schema cannot be made; the text says how to mend it.
    """
    own = f"{dsn}{'&' if '?' in dsn else '?'}{SEARCH_PATH}={name}"
    keeper = None
    try:
        keeper = await driver().connect(dsn, timeout=timeout, command_timeout=timeout)
        path = await keeper.fetchval("SELECT current_schemas(false)::text[]")
        await _drop_others(keeper)
        await keeper.execute(TRY_LOCK.replace("$1", f"'{name}'"))
        await keeper.execute(f"CREATE SCHEMA {name}; COMMENT ON SCHEMA {name} IS '{COMMENT}'")
        await _check(own, name, timeout)
    except Exception as err:
        if keeper is not None:
            with suppress(Exception):
                await keeper.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
            await close(keeper)
        explained = Database(dsn, 1, timeout).explain(err)
        raise ConfigurationError(
            f"app.test() keeps what a test stores in a schema of its own in the database, and cannot make one: "
            f"{explained}; have somebody GRANT CREATE ON DATABASE ... TO ..., let BBIO_DATABASE_URL name a database "
            "for tests, or say which store a test uses: app.test(stores={'name': MemoryStore()})"
        ) from None
    try:
        yield own, path
    finally:
        try:
            await keeper.execute(f"DROP SCHEMA {name} CASCADE")
        except Exception as err:
            logger.warning("the schema %s of a test is left, the next app.test() drops it: %s", name, err)
        await close(keeper)


async def _drop_others(keeper: Any) -> None:
    """Drop what tests have left that were killed."""
    for (name,) in await keeper.fetch(OTHERS, COMMENT):
        if await keeper.fetchval(TRY_LOCK, name):
            with suppress(driver().PostgresError):  # somebody else's
                await keeper.execute(f"DROP SCHEMA IF EXISTS {quote(name)} CASCADE")
            await keeper.execute(UNLOCK, name)


async def _check(dsn: str, name: str, timeout: float) -> None:
    """Raise `ConfigurationError` when tables would not be made in the schema: a pooler may drop that part of a DSN."""
    connection = await driver().connect(dsn, timeout=timeout, command_timeout=timeout)
    try:
        if await connection.fetchval("SELECT current_schema()") != name:
            raise ConfigurationError("search_path is ignored, as by a pooler; connect to PostgreSQL directly")
    finally:
        await close(connection)


async def copy_table(connection: Any, name: str, path: list[str], place: str | None = None) -> None:
    """Make a table like the one of that name in other schemas, if there is one: empty, with columns, rules and indexes.

    Parameters:
        connection: a connection, in whose schema the table is made.
        name: the name of the table.
        path: the schemas to look in.
        place: the table in SQL, where its name says the schema.
    """
    if place is None:
        original = await connection.fetchval(ORIGINAL, name, path)
    else:
        original = await connection.fetchval("SELECT $1 WHERE to_regclass($1) IS NOT NULL", place)
    if original is None:
        return
    table = quote(name)
    await connection.execute(f"CREATE TABLE {table} (LIKE {original} INCLUDING ALL)")
    # A copied default would draw from the sequence of the original.
    for column, default, sequence, bare, is_own in await connection.fetch(NUMBERED, name, original):
        await connection.execute(f"CREATE SEQUENCE IF NOT EXISTS {quote(bare)}")
        own = await connection.fetchval("SELECT quote_literal(to_regclass(quote_ident($1))::text)", bare)
        old = await connection.fetchval("SELECT quote_literal($1::text)", sequence)
        await connection.execute(f"ALTER TABLE {table} ALTER {quote(column)} SET DEFAULT {default.replace(old, own)}")
        if is_own:
            await connection.execute(f"ALTER SEQUENCE {quote(bare)} OWNED BY {table}.{quote(column)}")
