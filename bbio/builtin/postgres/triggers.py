"""The triggers that have what other programs write told to clients, as SQL that somebody else may run.

They are guests in a table. A row gets its revision before it is written, so that it is written once; where revisions
are kept beside the table, it gets it there when its statement ends, and is not touched. What a statement has changed is
left in `bbio_pending`, without a number: no program waits for another one's, at no isolation. What bbio writes is told
by bbio itself; what other triggers and foreign keys make of that is told like any other change.
"""

from __future__ import annotations

from hashlib import blake2b

from bbio.builtin.postgres.beside import Beside
from bbio.builtin.postgres.tables import Table, literal, quote
from bbio.builtin.postgres.telling import declared_in, key_of, telling, virtual_of

# Statements of bbio itself, but not what these set off.
IS_TOLD = "current_setting('bbio.own', true) IS DISTINCT FROM '1' OR pg_trigger_depth() > 0"
# Those that revise fire last of all before a row is written: in the order of the alphabet.
REVISING = ("zzz_bbio_insert", "zzz_bbio_update")
TELLING = {
    "bbio_insert": "AFTER INSERT ON {} REFERENCING NEW TABLE AS bbio_new",
    "bbio_update": "AFTER UPDATE ON {} REFERENCING OLD TABLE AS bbio_old NEW TABLE AS bbio_new",
    "bbio_delete": "AFTER DELETE ON {} REFERENCING OLD TABLE AS bbio_old",
}


def _functions(table: Table) -> tuple[str, str]:
    """The names of the functions of a table: what tells of its rows, and of their all being gone."""
    return quote(f"bbio_tell_{table.name}"[:63]), quote(f"bbio_truncated_{table.name}"[:63])


def _body(text: str) -> str:
    """Quote the body of a PL/pgSQL function with a tag that does not occur in it: a name may be anything."""
    tag = "bbio"
    while f"${tag}$" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


def triggers(table: Table) -> str:
    """Have what other programs write told to clients; running it again changes nothing.

    Parameters:
        table: the table, as it is.
    """
    name, backend = table.place, literal(table.name)
    tell, truncated = _functions(table)
    written = literal(made_of(table))
    declared = f"ARRAY[{', '.join(map(literal, declared_in(table)))}]"
    key = f"ARRAY[{', '.join(map(literal, key_of(table)))}]"
    is_told = IS_TOLD.replace("'", "''")
    beside = isinstance(table, Beside)
    revising = (
        ""
        if beside
        else f"""
    EXECUTE format('CREATE TRIGGER {REVISING[0]} BEFORE INSERT ON %s FOR EACH ROW
        WHEN ({is_told}) EXECUTE FUNCTION bbio_revise()', relation);
    EXECUTE format('CREATE TRIGGER {REVISING[1]} BEFORE UPDATE ON %s FOR EACH ROW
        WHEN ({is_told}) EXECUTE FUNCTION bbio_revise(%s)', relation, ignored);"""
    )
    texts, shapes = ("%L, %L", f"shape, bbio_shape(relation, {key})") if beside else ("%L", "shape")
    creates = "".join(
        f"""
    EXECUTE format('CREATE TRIGGER {trigger} {event.format("%s")} FOR EACH STATEMENT
        WHEN ({is_told}) EXECUTE FUNCTION %s({texts})', relation, {literal(tell)}, {shapes});"""
        for trigger, event in TELLING.items()
    )
    forget = (
        f"""
    DELETE FROM bbio_revs r USING bbio_backends b WHERE b.name = {backend} AND r.backend = b.id;"""
        if beside
        else ""
    )
    is_truncated = f"""
BEGIN
    PERFORM bbio_begin_epoch({backend});{forget}
    RETURN NULL;
END """
    make = f""" DECLARE
    -- As they run with the rights of their owner, they must find what they found when they were made.
    path text := (SELECT string_agg(quote_ident(name), ', ') || ', pg_temp' FROM unnest(current_schemas(false)) name);
    relation regclass := {literal(name)};
    declared text[] := {declared};
    shape text := bbio_shape(relation, declared);
    -- Columns that are no part of the model, and those that have no value yet before a row is written.
    ignored text := (
        SELECT coalesce(string_agg(quote_literal(a.attname), ', '), '') FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND (a.attgenerated <> ''
            OR a.attname <> ALL (declared) AND NOT EXISTS (SELECT FROM pg_attribute g WHERE g.attrelid = relation
                AND g.attgenerated <> '' AND NOT g.attisdropped AND g.attname = ANY (declared))));
    written text := {written};
BEGIN
    EXECUTE format('ALTER FUNCTION %s() SET search_path = %s', {literal(tell)}, path);
    EXECUTE format('ALTER FUNCTION %s() SET search_path = %s', {literal(truncated)}, path);
    written := written || ' ' || md5(shape || ignored);
    IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = 'bbio_insert'
        AND obj_description(t.oid, 'pg_trigger') = written)
    THEN
        RETURN;
    END IF;
{_drops(table, "    ")}{revising}{creates}
    CREATE TRIGGER bbio_truncated AFTER TRUNCATE ON {name} EXECUTE FUNCTION {truncated}();
    EXECUTE format('COMMENT ON TRIGGER bbio_insert ON %s IS %L', relation, written);
END """
    return f"""
INSERT INTO bbio_backends (name, epoch)
VALUES ({backend}, left(md5(clock_timestamp()::text || random()), 12)) ON CONFLICT DO NOTHING;
{_function(table)}
CREATE OR REPLACE FUNCTION {truncated}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {_body(is_truncated)};
DO {_body(make)};
"""


def _function(table: Table) -> str:
    """Return the function that reports changed rows, or just that some changed when a column is gone or replaced."""
    fit = f"bbio_shape(TG_RELID, ARRAY[{', '.join(map(literal, declared_in(table)))}]) = TG_ARGV[0]"
    keyed = ""
    if isinstance(table, Beside):
        keyed = f"""
    is_keyed boolean := bbio_shape(TG_RELID, ARRAY[{", ".join(map(literal, key_of(table)))}]) = TG_ARGV[1];
    number bigint;"""
    option = ""
    virtual = virtual_of(table)
    if virtual:
        # The names in what they are worked out from are columns.
        option = "\n#variable_conflict use_column"
        names, hows = (", ".join(map(literal, each)) for each in (virtual, virtual.values()))
        fit += f""" AND ARRAY(
        SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
        JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE a.attrelid = TG_RELID AND a.attname IN ({names}) ORDER BY a.attname) = ARRAY[{hows}]"""
    tell = f"""{option}
DECLARE
    backend_id integer := (SELECT b.id FROM bbio_backends b WHERE b.name = {literal(table.name)});
    is_fit boolean := {fit};{keyed}
    stream_name text;
BEGIN{telling(table)}
    RETURN NULL;
END """
    return f"""CREATE OR REPLACE FUNCTION {_functions(table)[0]}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS {_body(tell)};"""


def made_of(table: Table) -> str:
    """A short text for what tells of a table, by which another version of it is known."""
    return blake2b(_function(table).encode(), digest_size=8).hexdigest()


def _drops(table: Table, indent: str = "") -> str:
    names = (*REVISING, *TELLING, "bbio_truncated", "bbio_tell")
    return "\n".join(f"{indent}DROP TRIGGER IF EXISTS {trigger} ON {table.place};" for trigger in names)


def without_triggers(table: Table) -> str:
    """Have what other programs write told no more, whatever version of bbio had it told."""
    functions = "\n".join(f"DROP FUNCTION IF EXISTS {function}();" for function in _functions(table))
    return f"{_drops(table)}\n{functions}\n"
