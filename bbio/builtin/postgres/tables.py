"""The SQL of PostgresStore: its own tables, the table of a backend's models, and the triggers on it.

bbio plans a write in Python and sends whole models as JSON; what is made of them, columns or a document, is decided
here alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import attrs
import msgspec

from bbio import BadRequest
from bbio.builtin.documents import MAX_BATCH_BYTES
from bbio.builtin.ledger import TABLES as TABLES_OF_LEDGERS
from bbio.errors import ConfigurationError
from bbio.model.schema import Field, Schema
from bbio.model.types import kinds_of
from bbio.patterns import CANONICAL_UUID
from bbio.protocol import decode, encode

# The channel in which processes tell each other of writes, and the lock that keeps two from making tables at once.
NOTIFY_CHANNEL = "bbio"
SET_UP_LOCK = 0x6262696F

# Revisions are drawn in blocks, one a transaction, after the models are locked: so they grow with each write of a
# model, and no two writers wait for each other. A block has more numbers than a transaction has writes.
REVISIONS = 1_000

DRAW_REVISIONS = "SELECT nextval('bbio_revisions')"
# Of the models in `f`, in their order, those that are held together; of each of the others NULL.
HELD_TOGETHER = (
    "CASE WHEN sum(octet_length(f.fields)) OVER (ORDER BY f.number ROWS UNBOUNDED PRECEDING)"
    f" - octet_length(f.fields) <= {MAX_BATCH_BYTES} THEN f.fields END"
)

# What triggers of one transaction tell of more rows than so many is that there were: clients read everything anew.
MOST_TOLD = 1_000

# Whether the column of ids holds a number, in SQL with `{}` for the column.
NUMBER_ID = "{} ~ '^(0|-?[1-9][0-9]{{0,18}})$'"


def _begin_epoch(*of_streams: str, of_backends: tuple[str, ...] = ("bbio_streams",)) -> str:
    """Return the SQL that makes the function which begins a new epoch.

    Parameters:
        of_streams: the tables that have what it drops by stream.
        of_backends: those that have it by backend.
    """
    begun = "SELECT id FROM bbio_streams WHERE backend = ANY (begun)"
    drops = [f"DELETE FROM {table} WHERE stream IN ({begun});" for table in of_streams]
    drops += [f"DELETE FROM {table} WHERE backend = ANY (begun);" for table in of_backends]
    return f"""
    CREATE OR REPLACE FUNCTION bbio_begin_epoch(backend_name text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        begun integer[];
    BEGIN
        WITH changed AS (
            UPDATE bbio_backends SET epoch = left(md5(epoch || clock_timestamp() || random()), 12)
            WHERE backend_name IS NULL OR name = backend_name RETURNING id
        ) SELECT array_agg(id) INTO begun FROM changed;
        {" ".join(drops)}
        PERFORM pg_notify('{NOTIFY_CHANNEL}', '["",null,null]');
    END $$;
    """


def _collect(was: bool) -> str:
    """Return the SQL that makes the function which logs what triggers have left.

    Parameters:
        was: whether it also logs how the records were; the function is replaced then.
    """
    create = "CREATE OR REPLACE" if was else "CREATE"
    column = ", p.was" if was else ""
    were = (
        """, were AS (
                INSERT INTO bbio_was (stream, position, was)
                SELECT stream_id, g.position, g.was FROM placed g WHERE g.was IS NOT NULL
            )"""
        if was
        else ""
    )
    return f"""
    -- Number and log what waits for these streams, in the order of commits; whether more of it is left. Where there is
    -- too much to be told one by one the log has a gap, and clients read everything anew.
    {create} FUNCTION bbio_collect(backend_id integer, names text[]) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE
        stream_name text;
        stream_id bigint;
        taken bigint;
        is_left boolean := false;
        -- What this transaction has set off itself comes after it.
        own bigint := nullif(current_setting('bbio.stamp', true), '')::bigint;
        seconds double precision := extract(epoch FROM clock_timestamp());
    BEGIN
        PERFORM set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off';
        INSERT INTO bbio_streams (backend, name, epoch, top, size, trimmed, at)
            SELECT b.id, u.name, b.epoch, 0, 0, 0, seconds
            FROM (SELECT n.name FROM unnest(names) AS n(name) WHERE
                EXISTS (SELECT FROM bbio_pending p WHERE p.backend = backend_id AND p.stream = n.name
                    AND p.stamp IS DISTINCT FROM own)
                AND NOT EXISTS (SELECT FROM bbio_streams s WHERE s.backend = backend_id AND s.name = n.name)) AS u,
                (SELECT k.id, k.epoch FROM bbio_backends k WHERE k.id = backend_id FOR SHARE) AS b
            ORDER BY u.name COLLATE "C" ON CONFLICT DO NOTHING;
        FOR stream_id, stream_name IN
            SELECT s.id, s.name FROM bbio_streams s WHERE s.backend = backend_id AND s.name = ANY (names)
                AND EXISTS (SELECT FROM bbio_pending p WHERE p.backend = backend_id AND p.stream = s.name
                    AND p.stamp IS DISTINCT FROM own)
            ORDER BY s.name FOR UPDATE
        LOOP
            -- A look of its own: what this stream was locked for meanwhile is seen.
            WITH gone AS (
                DELETE FROM bbio_pending p
                WHERE p.backend = backend_id AND p.stream = stream_name AND p.stamp IS DISTINCT FROM own AND p.id <= (
                    SELECT max(first.id) FROM (
                        SELECT f.id FROM bbio_pending f WHERE f.backend = backend_id AND f.stream = stream_name
                        AND f.stamp IS DISTINCT FROM own ORDER BY f.id LIMIT {MOST_TOLD} + 1
                    ) AS first)
                RETURNING p.id, p.method, p.body, p.rev, p.stamp{column}
            ), counted AS (
                SELECT count(*) AS count, count(*) > {MOST_TOLD} OR bool_or(g.method IS NULL) AS is_lost,
                    sum(octet_length(g.body)) AS size, (array_agg(g.stamp ORDER BY g.id DESC))[1] AS stamp FROM gone g
            ), placed AS (
                SELECT s.top + row_number() OVER (ORDER BY g.id) AS position, g.*
                FROM gone g, counted c, bbio_streams s WHERE NOT c.is_lost AND s.id = stream_id
            ), logged AS (
                INSERT INTO bbio_log (stream, position, method, body, rev, at, stamp)
                SELECT stream_id, g.position, g.method, g.body, g.rev, seconds, g.stamp FROM placed g
            ){were}
            UPDATE bbio_streams s SET top = s.top + c.count, stamp = c.stamp, at = seconds,
                size = s.size + CASE WHEN c.is_lost THEN 0 ELSE c.size END
            FROM counted c WHERE s.id = stream_id AND c.count > 0 RETURNING c.count INTO taken;
            is_left := is_left OR coalesce(taken > {MOST_TOLD}, false);
            PERFORM bbio_wake(backend_id, stream_name) WHERE taken > 0;
        END LOOP;
        RETURN is_left;
    END $$;
    """


# Each entry brings a database one version further; what is here is never changed, only added to.
MIGRATIONS = (
    f"""
    CREATE TABLE bbio_backends (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, epoch text NOT NULL);
    CREATE TABLE bbio_streams (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, backend integer NOT NULL, name text COLLATE "C" NOT NULL,
        epoch text NOT NULL, top bigint NOT NULL, size bigint NOT NULL, trimmed bigint NOT NULL,
        at double precision NOT NULL, UNIQUE (backend, name)) WITH (fillfactor = 50);
    CREATE TABLE bbio_log (
        stream bigint NOT NULL, position bigint NOT NULL, method text NOT NULL, body text NOT NULL, rev bigint, op text,
        at double precision NOT NULL, PRIMARY KEY (stream, position));
    CREATE TABLE bbio_operations (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, backend integer NOT NULL, operation bytea NOT NULL,
        digest bigint NOT NULL, stream text NOT NULL, epoch text NOT NULL, position bigint NOT NULL,
        method text NOT NULL, body text NOT NULL, rev bigint, op text, at double precision NOT NULL,
        CONSTRAINT bbio_operations_once UNIQUE (backend, operation));
    CREATE SEQUENCE bbio_revisions INCREMENT BY {REVISIONS};

    -- As texts that sort as the times do, whatever the settings of a session.
    CREATE FUNCTION bbio_text(value timestamptz) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT to_char(value AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    $$;
    CREATE FUNCTION bbio_text(value date) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT to_char(value, 'YYYY-MM-DD')
    $$;

    -- The id of a model as JSON: a number is kept as its digits, a string that looks like one in quotes.
    CREATE FUNCTION bbio_id(id text) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT CASE WHEN {NUMBER_ID.format("id")} OR left(id, 1) = '"' THEN id::jsonb ELSE to_jsonb(id) END
    $$;

    -- Number an event, log it and wake the servers: what a trigger does for a write that another program made.
    CREATE FUNCTION bbio_tell(backend_name text, stream_name text, method text, body text, rev bigint)
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        known record;
        told record;
        length integer := octet_length(body);
        seconds double precision := extract(epoch FROM clock_timestamp());
    BEGIN
        UPDATE bbio_streams s SET top = s.top + 1, size = s.size + length, at = seconds
            FROM bbio_backends b WHERE b.name = backend_name AND s.backend = b.id AND s.name = stream_name
            RETURNING s.id, s.top, s.backend INTO told;
        IF NOT FOUND THEN
            SELECT b.id, b.epoch INTO STRICT known FROM bbio_backends b WHERE b.name = backend_name FOR SHARE;
            INSERT INTO bbio_streams AS s (backend, name, epoch, top, size, trimmed, at)
                VALUES (known.id, stream_name, known.epoch, 1, length, 0, seconds)
                ON CONFLICT (backend, name) DO UPDATE
                SET top = s.top + 1, size = s.size + excluded.size, at = excluded.at
                RETURNING s.id, s.top, s.backend INTO told;
        END IF;
        INSERT INTO bbio_log VALUES (told.id, told.top, method, body, rev, NULL, seconds);
        PERFORM pg_notify('{NOTIFY_CHANNEL}', json_build_array('', told.backend, json_build_array(stream_name))::text);
    END $$;

    -- Begin a new epoch: what clients know of the positions of a backend, or of all, holds no more.
    {_begin_epoch("bbio_log")}
    """,
    # The number of the transaction that logged an event, 0 where that is not known.
    f"""
    ALTER TABLE bbio_log ADD stamp bigint NOT NULL DEFAULT 0;
    ALTER TABLE bbio_streams ADD stamp bigint NOT NULL DEFAULT 0;
    ALTER TABLE bbio_operations ADD stamp bigint NOT NULL DEFAULT 0;

    CREATE OR REPLACE FUNCTION bbio_tell(backend_name text, stream_name text, method text, body text, rev bigint)
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        known record;
        told record;
        length integer := octet_length(body);
        seconds double precision := extract(epoch FROM clock_timestamp());
        number bigint := nullif(current_setting('bbio.stamp', true), '');
    BEGIN
        IF number IS NULL THEN
            -- Drawn as a UUID is: random() repeats itself for whoever sets its seed.
            number := greatest(1, ('x' || right(gen_random_uuid()::text, 12))::bit(48)::bigint);
            PERFORM set_config('bbio.stamp', number::text, true);
            -- Clients are told of it, so a crash must not take it back.
            PERFORM set_config('synchronous_commit', 'local', true)
                WHERE current_setting('synchronous_commit') = 'off';
        END IF;
        UPDATE bbio_streams s SET top = s.top + 1, size = s.size + length, at = seconds, stamp = number
            FROM bbio_backends b WHERE b.name = backend_name AND s.backend = b.id AND s.name = stream_name
            RETURNING s.id, s.top, s.backend INTO told;
        IF NOT FOUND THEN
            SELECT b.id, b.epoch INTO STRICT known FROM bbio_backends b WHERE b.name = backend_name FOR SHARE;
            INSERT INTO bbio_streams AS s (backend, name, epoch, top, size, trimmed, at, stamp)
                VALUES (known.id, stream_name, known.epoch, 1, length, 0, seconds, number)
                ON CONFLICT (backend, name) DO UPDATE
                SET top = s.top + 1, size = s.size + excluded.size, at = excluded.at, stamp = excluded.stamp
                RETURNING s.id, s.top, s.backend INTO told;
        END IF;
        INSERT INTO bbio_log (stream, position, method, body, rev, op, at, stamp)
            VALUES (told.id, told.top, method, body, rev, NULL, seconds, number);
        PERFORM pg_notify('{NOTIFY_CHANNEL}', json_build_array('', told.backend, json_build_array(stream_name))::text);
    END $$;
    """,
    # What layers saw of a record, where events tell less: a repeated write shows them the same.
    "ALTER TABLE bbio_operations ADD record text",
    # Infinity, and years before the first, which the first of these texts could not tell from others.
    """
    CREATE OR REPLACE FUNCTION bbio_text(value timestamptz)
    RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT CASE WHEN isfinite(value)
            THEN to_char(value AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                || CASE WHEN value < '0001-01-01Z' THEN ' BC' ELSE '' END
            WHEN value > '2000-01-01Z' THEN 'infinity' ELSE '-infinity' END
    $$;
    CREATE OR REPLACE FUNCTION bbio_text(value date)
    RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT CASE WHEN isfinite(value)
            THEN to_char(value, 'YYYY-MM-DD') || CASE WHEN value < '0001-01-01' THEN ' BC' ELSE '' END
            WHEN value > '2000-01-01' THEN 'infinity' ELSE '-infinity' END
    $$;
    """,
    # Triggers leave what they tell without a number, so that no program waits for another one's; whoever reads a
    # stream, or writes to it, numbers first what is there.
    f"""
    CREATE TABLE bbio_pending (
        backend integer NOT NULL, stream text COLLATE "C" NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY,
        method text, body text, rev bigint, stamp bigint NOT NULL, PRIMARY KEY (backend, stream, id));

    -- The number of this transaction.
    CREATE FUNCTION bbio_stamp() RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        number bigint := nullif(current_setting('bbio.stamp', true), '');
    BEGIN
        IF number IS NULL THEN
            -- Drawn as a UUID is: random() repeats itself for whoever sets its seed.
            number := greatest(1, ('x' || right(gen_random_uuid()::text, 12))::bit(48)::bigint);
            PERFORM set_config('bbio.stamp', number::text, true);
            -- Clients are told of it, so a crash must not take it back.
            PERFORM set_config('synchronous_commit', 'local', true)
                WHERE current_setting('synchronous_commit') = 'off';
        END IF;
        RETURN number;
    END $$;

    -- Whether this transaction may tell of so many rows more one by one.
    CREATE FUNCTION bbio_has_room(added bigint) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE
        told bigint := added + coalesce(nullif(current_setting('bbio.told', true), ''), '0')::bigint;
    BEGIN
        PERFORM set_config('bbio.told', told::text, true);
        RETURN told <= {MOST_TOLD};
    END $$;

    -- The columns that a trigger reads, as they are.
    CREATE FUNCTION bbio_shape(relation oid, names text[]) RETURNS text LANGUAGE sql STABLE AS $$
        SELECT string_agg(a.attname || ' ' || t.typname, ', ' ORDER BY a.attname)
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = relation AND a.attname = ANY (names) AND NOT a.attisdropped
    $$;

    -- Wake the servers; where there is no place left to say so, they look by themselves a little later.
    CREATE FUNCTION bbio_wake(backend_id integer, stream_name text) RETURNS void LANGUAGE sql AS $$
        SELECT pg_notify('{NOTIFY_CHANNEL}', json_build_array('', backend_id, json_build_array(stream_name))::text)
        WHERE pg_notification_queue_usage() < 0.5
    $$;

    {_collect(was=False)}

    {_begin_epoch("bbio_log", of_backends=("bbio_streams", "bbio_pending"))}

    -- Give a row that another program writes its revision, before it is written. It runs with the rights of its owner
    -- and, as it is for each row, without a search path of its own: so each name says where it is.
    DO $do$ BEGIN EXECUTE format($sql$
        CREATE FUNCTION bbio_revise() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
                IF NEW OPERATOR(pg_catalog.*=) OLD THEN
                    RETURN NEW;
                END IF;
                -- The arguments name columns that are no part of the model.
                IF TG_NARGS OPERATOR(pg_catalog.>) 0 THEN
                    IF pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.-) TG_ARGV::pg_catalog.text[] OPERATOR(pg_catalog.=)
                        (pg_catalog.to_jsonb(OLD) OPERATOR(pg_catalog.-) TG_ARGV::pg_catalog.text[])
                    THEN
                        RETURN NEW;
                    END IF;
                END IF;
                NEW.rev := greatest(pg_catalog.nextval(%1$L), OLD.rev OPERATOR(pg_catalog.+) 1);
            ELSE
                NEW.rev := pg_catalog.nextval(%1$L);
            END IF;
            RETURN NEW;
        END $$
    $sql$, format('%I.bbio_revisions', current_schema())); END $do$;
    """,
    # The revisions of models whose own table has no place for them.
    """
    CREATE TABLE bbio_revs (
        backend integer NOT NULL, id text COLLATE "C" NOT NULL, channel text COLLATE "C" NOT NULL, rev bigint NOT NULL,
        PRIMARY KEY (backend, id, channel)) WITH (fillfactor = 80);

    -- A revision as it is now: a statement sees what it has waited for in the rows that it locks, and there alone.
    CREATE FUNCTION bbio_rev(backend_id integer, channel_name text, model_id text)
    RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        RETURN coalesce((SELECT r.rev FROM bbio_revs r
            WHERE r.backend = backend_id AND r.channel = channel_name AND r.id = model_id), 0);
    END $$;
    """,
    # How records were, for backends that need it: apart, so that the events of others take no byte more.
    f"""
    CREATE TABLE bbio_was (stream bigint NOT NULL, position bigint NOT NULL, was text NOT NULL,
        PRIMARY KEY (stream, position));
    ALTER TABLE bbio_pending ADD was text;

    -- How a record was, as `bbio.was` has it.
    CREATE FUNCTION bbio_was_of(before jsonb, after jsonb, told jsonb)
    RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
        SELECT json_build_array(
            CASE WHEN after IS NULL THEN '{{}}'::jsonb WHEN before IS NOT NULL THEN
                (SELECT coalesce(jsonb_object_agg(o.key, o.value), '{{}}') FROM jsonb_each(before) o
                    WHERE after -> o.key IS DISTINCT FROM o.value) END,
            CASE WHEN after IS NULL OR before IS NULL THEN '[]'::jsonb ELSE
                (SELECT coalesce(jsonb_agg(n.key), '[]') FROM jsonb_object_keys(after) AS n(key)
                    WHERE NOT before ? n.key) END,
            (SELECT coalesce(jsonb_object_agg(r.key, r.value), '{{}}') FROM jsonb_each(coalesce(after, before)) r
                WHERE told -> r.key IS DISTINCT FROM r.value))::text
    $$;

    {_collect(was=True)}

    {_begin_epoch("bbio_was", "bbio_log", of_backends=("bbio_streams", "bbio_pending"))}
    """,
    # What processes tell each other: who is to be told nothing more.
    """
    CREATE TABLE bbio_notices (
        id bigint PRIMARY KEY, process text NOT NULL, at double precision NOT NULL, notice text NOT NULL);

    -- One after the other, so that their numbers have no gaps, and whoever has read one has read those before it. The
    -- last one stays, as it says how far they have come.
    CREATE FUNCTION bbio_tell_notice(teller text, told text, kept_seconds double precision, most integer)
    RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    DECLARE
        this bigint;
        now double precision := extract(epoch FROM clock_timestamp());
    BEGIN
        LOCK TABLE bbio_notices IN SHARE ROW EXCLUSIVE MODE;
        SELECT coalesce(max(id), 0) + 1 INTO this FROM bbio_notices;
        INSERT INTO bbio_notices VALUES (this, teller, now, told);
        DELETE FROM bbio_notices WHERE id < this AND (at < now - kept_seconds OR id <= this - most);
    END $$;
    """,
    # How far consumers are, and what they could not handle.
    "; ".join(TABLES_OF_LEDGERS).replace("{serial}", "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    # How far bulks have come.
    """
    CREATE TABLE bbio_bulks (
        backend integer NOT NULL, name text COLLATE "C" NOT NULL, stored bigint NOT NULL, digest bytea NOT NULL,
        done boolean NOT NULL, at double precision NOT NULL, PRIMARY KEY (backend, name));
    """,
)

# What a database is: where it was restored to another place, or went on from an earlier time, this differs.
ORIGIN = """
    SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()),
        left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), 'bbio_streams'::regclass::oid)
"""

# What attrs.Factory makes; that name is a function to type checkers.
Factory: Any = type(attrs.Factory(list))

_LIKE_A_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
# A double has no more digits before the point, and not all numbers of so many are one.
MAX_DOUBLE_DIGITS = 309
_HUGE = re.compile(rf"[0-9]{{{MAX_DOUBLE_DIGITS}}}")
_WITH_EXPONENT = re.compile(rb"[0-9]e\+?[0-9]")


def events_channel(channel: str) -> str:
    """Return the channel on which servers send each other events. Triggers name changed streams on another."""
    return f"{channel}_events"


def recheck_channel(channel: str) -> str:
    """The channel in which processes tell each other that permissions are to be looked at again."""
    return f"{channel}_recheck"


def notices_channel(channel: str) -> str:
    """Return the channel on which processes tell each other that there is a notice."""
    return f"{channel}_notices"


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    quoted = "'" + text.replace("'", "''") + "'"
    return quoted if "\\" not in text else "E" + quoted.replace("\\", "\\\\")


def id_text(key: Any) -> str:
    """The id of a model as its column has it.

    Raises:
        BadRequest: PostgreSQL has no such text.

    Example:
        >>> id_text("7f1"), id_text(7), id_text("7")
        ('7f1', '7', '"7"')
    """
    if type(key) is int:
        return str(key)
    if "\0" in key or not _is_unicode(key):
        raise BadRequest("an id holds a character that cannot be stored")
    text: str = encode(key).decode() if key[:1] == '"' or _LIKE_A_NUMBER.fullmatch(key) else key
    return text


def id_of(text: str) -> Any:
    """The id of a model whose column has this text.

    Example:
        >>> id_of("7f1"), id_of("7"), id_of('"7"')
        ('7f1', 7, '7')
    """
    if _LIKE_A_NUMBER.fullmatch(text):
        return int(text)
    return decode(text) if text[:1] == '"' else text


def body_text(body: bytes) -> str:
    """The JSON of a model as it is sent to PostgreSQL, which takes 1e300 for a whole number, unlike 1000...0.0."""
    return (encode(_spelled_out(decode(body))) if _WITH_EXPONENT.search(body) else body).decode()


def decoded(text: str) -> Any:
    """A model as PostgreSQL tells it; numbers that no reader of JSON can hold are their digits, as texts.

    Example:
        >>> decoded('{"n": 1.5}'), decoded('{"n": -1' + 400 * "0" + "}")["n"][:5]
        ({'n': 1.5}, '-1000')
    """
    return _spelled(text) if _is_huge(text) else decode(text)


def _is_huge(text: str) -> bool:
    return len(text) > MAX_DOUBLE_DIGITS and _HUGE.search(text) is not None


def _spelled(text: str) -> Any:
    return json.loads(text, parse_int=_held_number, parse_float=_held_number)


def _held_number(text: str) -> Any:
    return text if math.isinf(float(text)) else decode(text)


def _spelled_out(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _spelled_out(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_spelled_out(item) for item in value]
    return msgspec.Raw(f"{value:.1f}".encode()) if type(value) is float and abs(value) >= 1e15 else value


def _is_unicode(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


@attrs.frozen
class Column:
    """A column of a table of models, beside the id and the revision.

    Parameters:
        name: its name.
        type: its type in SQL.
        fits: the types that a column which is there already may have.
        default: its default in SQL, for models that are there when it is added; `NULL` when there is none.
        lasting: whether that is the default of later rows too.
        required: whether a model cannot be without it, and has no default.
        read: the value as JSON, in SQL with `{}` for the column.
        write: the value from the model `u.body`, in SQL.
        kind: what it holds: a kind or format of JSON, as `TYPES` has them, or `any`.
        elements: the kind of the elements of a list, None where it is none.
        wanted: what a value must be, for a message.
        number: the number that it is compared as, 0 where there is none, in SQL with `{}` for the column; empty for
            what is no number.
        generated: whether PostgreSQL alone gives it its value.
        virtual: how PostgreSQL works it out whenever it is read, in SQL; empty where rows have a value.
        defaults: whether its owner has given it a default, for models of which nobody sets it.
    """

    name: str
    type: str
    fits: tuple[str, ...] = ()
    default: str = "NULL"
    lasting: bool = True
    required: bool = False
    read: str = "{}"
    write: str = "u.body"
    kind: str = "any"
    elements: str | None = None
    wanted: str = "must be an object"
    number: str = ""
    generated: bool = False
    virtual: str = ""
    defaults: bool = False

    @classmethod
    def of(cls, field: Field) -> Column:
        """The column of a field of a schema."""
        shape = field.shape
        kind = (kinds_of(shape)[0] if len(kinds_of(shape)) == 1 else "any") if shape.choices else shape.kind
        kind = shape.format or kind
        type, fits, read = TYPES.get(kind, ("jsonb", (), "{}"))
        value = literal(field.name)
        write = f"(u.body ->> {value})::{type}" if type != "jsonb" else f"nullif(u.body -> {value}, 'null')"
        default = _default(field)
        return cls(
            field.name,
            type,
            (type, *fits),
            "NULL" if default is None else f"{literal(default)}::{type}",
            not isinstance(field.default, Factory),
            default is None and not shape.nullable,
            read,
            write,
            kind,
            None if shape.kind != "array" or shape.items is None else shape.items.format or shape.items.kind,
            shape.wanted.removeprefix("must be "),
            # What it is compared with is numeric, which is taken for a float where need be, but not for an integer.
            {"bigint": "coalesce({}, 0)::numeric", "double precision": "coalesce({}, 0)::float8"}.get(type, ""),
        )

    @property
    def is_number(self) -> bool:
        """Return whether the column holds numbers that are numbers in JSON."""
        return bool(self.number)

    @property
    def text(self) -> str:
        """Return the SQL of a JSON string, with `{}` for the column; an empty one when the column holds no strings."""
        return self.read if self.type not in ("boolean", "jsonb") and not self.is_number else "''"

    def declared(self, default: bool) -> str:
        """It, as it is declared when it is added to a table, with its default or without."""
        return f"{quote(self.name)} {self.type}" + (f" DEFAULT {self.default}" if default else "")


def _default(field: Field) -> str | None:
    """The default of a field as a text that PostgreSQL reads; None when there is none, or it is null."""
    value = field.default
    if isinstance(value, Factory):
        # What depends on other fields is for each model its own.
        value = None if value.takes_self else value.factory()
    if value is attrs.NOTHING or value is None:
        return None
    value = field.write(value)
    return value if type(value) is str and TYPES.get(field.shape.format or field.kind) else encode(value).decode()


# Types of ids beside texts; of whole numbers, how many bits they have beside the sign.
ID_TYPES = {"bigint": 63, "integer": 31, "smallint": 15, "uuid": 0}


# Of each kind of value: the type of its column, other types it may be kept in, and how it is read as JSON. What is in
# no list is kept as JSON.
TYPES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "string": ("text", ("character varying",), "{}"),
    "boolean": ("boolean", (), "{}"),
    "integer": ("bigint", ("integer", "smallint"), "{}"),
    "number": ("double precision", (), "{}"),
    "decimal": ("numeric", (), "{}::text"),
    "date-time": ("timestamp with time zone", (), "bbio_text({})"),
    "date": ("date", (), "bbio_text({})"),
    "uuid": ("uuid", (), "{}::text"),
}

# Names that PostgreSQL has for something else.
SYSTEM_COLUMNS = ("ctid", "tableoid", "xmin", "xmax", "cmin", "cmax")

DOCUMENT = Column("body", "jsonb", ("jsonb",))


@attrs.frozen
class Table:
    """The table of a backend's models, and the statements that read and write it.

    Parameters:
        name: its name.
        id_attribute: the name of the id in a model.
        per_channel: whether every channel has models of its own.
        columns: what it has beside the id, the revision and, with `per_channel`, the channel.
        private: fields that never leave the server.
        id_type: the type of the column of ids, where the table was made by somebody else: `text`, `uuid`, `bigint`, ...
        id_name: the name of that column.
        rule: the name of the rule that makes the key one.
        is_apart: whether the name is taken as it is, though there is a dot in it.
        keeps_was: whether triggers say how rows were.
    """

    name: str
    id_attribute: str
    per_channel: bool
    columns: tuple[Column, ...] = (DOCUMENT,)
    private: tuple[str, ...] = ()
    id_type: str = "text"
    id_name: str = "id"
    rule: str = ""
    is_apart: bool = False
    keeps_was: bool = False

    # The columns of the table that are about revisions, and what a write of `u.rev` gives them.
    revised: ClassVar[dict[str, str]] = {"rev": "u.rev"}

    @classmethod
    def of(cls, name: str, id_attribute: str, per_channel: bool, schema: Schema | None) -> Table:
        """The table for models of a schema, or of none.

        Raises:
            ConfigurationError: a field has a name that no column can have.
        """
        rule = f"{name.rpartition('.')[2]}_pkey"
        if schema is None:
            return cls(name, id_attribute, per_channel, rule=rule)
        columns = tuple(Column.of(field) for field in schema.fields.values() if field.name != id_attribute)
        taken = (*cls.revised, "channel", *SYSTEM_COLUMNS)
        for column in columns:
            if column.name in taken or len(column.name.encode()) > 63:
                raise ConfigurationError(
                    f"{schema.cls.__name__}.{column.name} cannot be a column of the table {name!r}, which has its own "
                    f"{', '.join(taken)}, and names of at most 63 bytes; rename the field"
                )
        private = tuple(field.name for field in schema.fields.values() if field.private)
        id_name = id_attribute if "id" in schema.fields else "id"
        return cls(name, id_attribute, per_channel, columns, private, id_name=id_name, rule=rule)

    @property
    def schema(self) -> str | None:
        """The schema that its name says, None where that is left to the `search_path`."""
        schema, dot, _ = self.name.partition(".")
        return schema if dot and not self.is_apart else None

    @property
    def relation(self) -> str:
        """Return the name of the table, without that of its schema."""
        return self.name if self.schema is None else self.name.partition(".")[2]

    @property
    def place(self) -> str:
        """Return the name of the table in SQL."""
        return quote(self.relation) if self.schema is None else f"{quote(self.schema)}.{quote(self.relation)}"

    @property
    def id_column(self) -> str:
        """The column of ids, in SQL."""
        return "id" if self.id_name == "id" else quote(self.id_name)

    @property
    def key(self) -> list[str]:
        """Return the parts of the primary key. The columns have these names, except that of ids."""
        return ["channel", "id"] if self.per_channel else ["id"]

    @property
    def key_columns(self) -> list[str]:
        """The columns of the primary key, in SQL."""
        return ["channel", self.id_column] if self.per_channel else [self.id_column]

    def statement(self, name: str, *about: Any) -> str:
        """A statement of those below, by its name and what it takes."""
        made: str = getattr(self, name)(*about)
        return made

    def create(self) -> str:
        """Make the table."""
        columns = [
            *(f'{name} text COLLATE "C" NOT NULL' for name in self.key_columns),
            *(f"{name} bigint NOT NULL DEFAULT 0" for name in self.revised),
            *(column.declared(column.lasting) for column in self.columns),
            f"CONSTRAINT {quote(self.rule)} PRIMARY KEY ({', '.join(self.key_columns)})",
        ]
        return f"CREATE TABLE {self.place} ({', '.join(columns)})"

    def revision(self, row: str) -> str:
        """The revision of the model in a row, in SQL."""
        return f"{row}.rev"

    @property
    def is_document(self) -> bool:
        """Return whether models are kept as documents."""
        return self.columns == (DOCUMENT,)

    def whole(self, row: str, public: bool = False) -> str:
        """The model in a row, as JSON text.

        Parameters:
            row: the name of the row.
            public: whether private fields are left out.
        """
        id = f"bbio_id({row}.{self.id_column}::text)"
        hidden = self.private if public else ()
        if self.is_document:
            body = "".join([f"{row}.body", *(f" - {literal(name)}" for name in hidden)])
            return f"({body} || jsonb_build_object({literal(self.id_attribute)}, {id}))::text"
        return self._json([f"{id} AS {quote(self.id_attribute)}", *self._fields(row, hidden)])

    def fields(self, row: str) -> str:
        """The model in a row but for its id, as JSON text: `bbio_id` costs more than all else that is read."""
        if self.is_document:
            return f"{row}.body::text"
        return self._json(self._fields(row)) if self.columns else "'{}'"

    def _fields(self, row: str, hidden: Collection[str] = ()) -> list[str]:
        return [
            f"{column.read.format(f'{row}.{quote(column.name)}')} AS {quote(column.name)}"
            for column in self.columns
            if column.name not in hidden
        ]

    def _json(self, fields: list[str]) -> str:
        # `w.*` is the row whatever its columns are called, `w` would be the column of that name.
        return f"(SELECT row_to_json(w.*) FROM (SELECT {', '.join(fields)}) w)::text"

    def body(self, id: Any, fields: str) -> bytes:
        """A model as JSON.

        Parameters:
            id: its id.
            fields: what `fields` has found; an id in there counts no more.
        """
        if _is_huge(fields):
            fields = encode(_spelled(fields)).decode()
        return f"{fields[:-1]}{', ' if len(fields) > 2 else ''}{encode({self.id_attribute: id}).decode()[1:]}".encode()

    def _arrays(self, *types: str) -> str:
        """Arrays bound as parameters, the columns of the key first, as rows."""
        kinds = ["text"] * len(self.key) + list(types)
        return "unnest(" + ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, 1)) + ")"

    def _key_of(self, row: str) -> list[str]:
        """The values of the key in a row of texts, as the columns have them."""
        return [f"{row}.{name}{f'::{self.id_type}' if name == 'id' else ''}" for name in self.key]

    def _is_key(self) -> str:
        return " AND ".join(map("{} = {}".format, self._columns_of_key("t"), self._key_of("u")))

    def _columns_of_key(self, row: str) -> list[str]:
        """The columns of the key in a row of the table."""
        return [f"{row}.{column}" for column in self.key_columns]

    def held(self, key: Any) -> Any:
        """An id as the column of ids would hold it, None when it never could.

        A route of a page has each id as a text, and a column that holds no texts can mean but one thing by it.

        Raises:
            BadRequest: PostgreSQL has no such text.
        """
        if self.id_type in ("text", "bpchar"):
            id_text(key)
            # A text of a fixed length ends with spaces that are none of its own.
            return key.rstrip(" ") if type(key) is str and self.id_type == "bpchar" else key
        if self.id_type == "uuid":
            key = key.lower() if type(key) is str else ""
            return key if CANONICAL_UUID.fullmatch(key) else None
        if type(key) is str:
            if not _LIKE_A_NUMBER.fullmatch(key):
                return None
            key = int(key)
        bits = ID_TYPES[self.id_type]
        return key if -(1 << bits) <= key < 1 << bits else None

    def select(self) -> str:
        """The models of some keys, as many as are held together: of others, that they are there."""
        return f"SELECT {self._key_in('f')}, f.rev, {HELD_TOGETHER} FROM ({self._rows(self.revision('t'))}) f"

    def _key_in(self, row: str) -> str:
        return ", ".join(f"{row}.{name}" for name in self.key)

    def _rows(self, revision: str) -> str:
        """The rows of some keys, each with its place among them."""
        key = ", ".join(
            f"{column}::text AS {name}" for name, column in zip(self.key, self._columns_of_key("t"), strict=True)
        )
        return (
            f"SELECT {key}, u.number, {revision} AS rev, {self.fields('t')} AS fields"
            f" FROM {self._arrays()} WITH ORDINALITY AS u({', '.join(self.key)}, number)"
            f" JOIN {self.place} t ON {self._is_key()}"
        )

    def lock(self, how: str) -> str:
        """The models of some keys, locked in an order that all processes share, and a block of revisions drawn then.

        Parameters:
            how: `FOR UPDATE OF t`, so that nobody else may write them.
        """
        return self._locked(self.revision("t"), how, "f.rev")

    def _locked(self, revision: str, how: str, now: str) -> str:
        """The rows of some keys, locked.

        Parameters:
            revision: what is found with each, before it is locked.
            how: how they are locked.
            now: the revision of the model in `f`, when it is.
        """
        return (
            f"WITH found AS MATERIALIZED ({self._rows(revision)}"
            f" ORDER BY {', '.join(self._columns_of_key('t'))} {how})"
            # All are counted before it is drawn.
            f" SELECT ({DRAW_REVISIONS} FROM (SELECT count(*) FROM found) AS locked),"
            f" {self._key_in('f')}, {now}, {HELD_TOGETHER}"
            " FROM (VALUES (1)) AS one LEFT JOIN found f ON true"
        )

    def draw(self, source: str) -> str:
        """Draw ids for new models: a count.

        Parameters:
            source: what gives one, in SQL.
        """
        return f"SELECT {source} AS id FROM generate_series(1, $1::integer)"

    def draw_free(self, source: str) -> str:
        """Draw ids for new models, those that no model has: a count.

        Parameters:
            source: what gives one, in SQL.
        """
        return (
            f"SELECT id FROM ({self.draw(source)}) d"
            f" WHERE NOT EXISTS (SELECT FROM {self.place} t WHERE t.{self.id_column} = d.id)"
        )

    def with_owners(self, generated: Mapping[str, str], defaults: Collection[str]) -> Table:
        """The table, knowing which columns get their values from PostgreSQL.

        Parameters:
            generated: those that always do, and how it works out those of which rows have no value.
            defaults: those that do when nobody sets them.
        """
        columns = tuple(
            attrs.evolve(
                column,
                generated=column.name in generated,
                virtual=generated.get(column.name, ""),
                defaults=column.name in defaults,
            )
            for column in self.columns
        )
        return attrs.evolve(self, columns=columns)

    def insert(self, left: Collection[str] = ()) -> str:
        """Add models: arrays of keys, revisions and models.

        Parameters:
            left: the columns that are left to their defaults.
        """
        written = [column for column in self.columns if not column.generated and column.name not in left]
        names = ", ".join([*self.key_columns, *self.revised, *(quote(column.name) for column in written)])
        values = ", ".join([*self._key_of("u"), *self.revised.values(), *(column.write for column in written)])
        rows = f"{self._arrays('bigint', 'jsonb')} AS u({', '.join(self.key)}, rev, body)"
        # An id that is always the table's own to give was drawn from its sequence.
        return (
            f"INSERT INTO {self.place} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {rows}"
            + self._returning("t")
        )

    def update(self, names: Collection[str], is_losing: bool = False) -> str:
        """Change models: arrays of keys, revisions, what is new of the models, and the fields that they lose, if any.

        Parameters:
            names: the columns to be changed; nothing of documents.
            is_losing: whether documents lose fields.
        """
        changes = {
            column.name: column.write for column in self.columns if column.name in names and not column.generated
        }
        if self.is_document:
            lost = " - ARRAY(SELECT jsonb_array_elements_text(u.lost))" if is_losing else ""
            changes = {"body": f"(t.body || u.body){lost}"}
        revised = (f"{name} = {value}" for name, value in self.revised.items())
        values = ", ".join([*revised, *(f"{quote(name)} = {value}" for name, value in changes.items())])
        given = {"rev": "bigint", "body": "jsonb"} | ({"lost": "jsonb"} if is_losing else {})
        rows = f"{self._arrays(*given.values())} AS u({', '.join([*self.key, *given])})"
        return f"UPDATE {self.place} AS t SET {values} FROM {rows} WHERE {self._is_key()}{self._returning('u')}"

    def delete(self) -> str:
        """Remove models: arrays of keys."""
        rows = f"{self._arrays()} AS u({', '.join(self.key)})"
        return f"DELETE FROM {self.place} AS t USING {rows} WHERE {self._is_key()}{self._returning('u')}"

    def _returning(self, keys: str) -> str:
        return f" RETURNING {self._written(keys)}"

    def _written(self, keys: str) -> str:
        """Return the SQL of each written row: its key, as the row has it, its id and its fields."""
        id = f"t.{self.id_column}"
        columns = self._columns_of_key("t") if keys == "t" else [*(f"{keys}.{name}" for name in self.key), id]
        return f"{', '.join(f'{column}::text' for column in columns)}, {self.fields('t')}"
