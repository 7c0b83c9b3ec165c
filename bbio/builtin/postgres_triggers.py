"""The triggers that have what other programs write told to clients, as SQL that somebody else may run.

They are guests in a table. A row gets its revision before it is written, so that it is written once. What a statement
has changed is left in `bbio_pending`, without a number: no program waits for another one's, at no isolation. What bbio
writes is told by bbio itself; what other triggers and foreign keys make of that is told like any other change.
"""

from __future__ import annotations

from hashlib import blake2b

from bbio.builtin.postgres_tables import Table, literal, quote

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


def _stream(table: Table, row: str) -> str:
    return f"'c:' || {row}.channel" if table.per_channel else "'*'"


def _events(table: Table, row: str, method: str, rev: str, place: str) -> str:
    """The events of rows, to be put in front of where they come from."""
    stream, body = _stream(table, row), table.whole(row, True)
    return f"SELECT {stream} AS stream, {method} AS method, {body} AS body, {rev} AS rev, {place} AS place"


def _numbered(table: Table, rows: str, place: str, order: str) -> str:
    """The rows that a statement has found or left, each key once."""
    columns = ", ".join(f"w.{quote(name)}" for name in sorted({*_declared(table)}))
    key = ", ".join(f"r.{column}" for column in table.key_columns)
    return (
        f"SELECT DISTINCT ON ({key}) r.* FROM"
        f" (SELECT {columns}, row_number() OVER () AS {place} FROM {_worked_out(table, rows)} w) r"
        f" ORDER BY {key}, r.{place}{order}"
    )


def _worked_out(table: Table, rows: str) -> str:
    """The rows that a statement has found or left. Virtual columns are NULL in them, and are worked out."""
    virtual = _virtual(table)
    if not virtual:
        return rows
    others = [f"w.{quote(name)}" for name in sorted({*_declared(table)} - virtual.keys())]
    columns = ", ".join([*others, *(f"({how}) AS {quote(name)}" for name, how in virtual.items())])
    return f"(SELECT {columns} FROM {rows} w)"


def _virtual(table: Table) -> dict[str, str]:
    """The virtual columns, and how each is worked out from others of its row, in the order of their names."""
    return dict(sorted((column.name, column.virtual) for column in table.columns if column.virtual))


def _changes(table: Table) -> dict[str, str]:
    """The events of each kind of statement."""
    place = "bbio_place"
    while any(column.name == place for column in table.columns):
        place += "_"
    same = " AND ".join(f"o.{column} = n.{column}" for column in table.key_columns)
    first, last = (
        _numbered(table, "bbio_old", place, ""),
        _numbered(table, "bbio_new", place, " DESC"),
    )
    gone = _events(table, "o", "'delete'", "o.rev + 1", f"o.{place}")
    id = table.id_column
    method = f"CASE WHEN o.{id} IS NULL THEN 'create' ELSE 'update' END"
    # Those whose key is new come after those whose key is gone.
    left = _events(table, "n", method, "n.rev", f"{{}} + n.{place}")
    made = _events(table, "n", "'create'", "n.rev", "row_number() OVER ()")
    lost = _events(table, "o", "'delete'", "o.rev + 1", "row_number() OVER ()")
    return {
        "INSERT": f"{made} FROM {_worked_out(table, 'bbio_new')} n",
        "UPDATE": (
            f"WITH o AS ({first}), n AS ({last}) {gone} FROM o WHERE NOT EXISTS (SELECT FROM n WHERE {same})"
            f" UNION ALL {left.format('(SELECT count(*) FROM o)')} FROM n LEFT JOIN o ON {same}"
            f" WHERE o.{id} IS NULL OR o.rev <> n.rev"
        ),
        "DELETE": f"{lost} FROM {_worked_out(table, 'bbio_old')} o",
    }


def _lost(table: Table, rows: str) -> str:
    """The stream that rows would be told in, where they are not told one by one."""
    return (
        f"SELECT DISTINCT {_stream(table, 'w')} AS stream FROM {rows} w"
        if table.per_channel
        else "SELECT '*' AS stream"
    )


def _telling(table: Table) -> str:
    """What is left in `bbio_pending` of each kind of statement, in which the servers are woken."""

    def leave(columns: str, values: str, rows: str) -> str:
        return f"""
            FOR stream_name IN WITH w AS (
                INSERT INTO bbio_pending AS p (backend, stream, stamp{columns})
                SELECT backend_id, e.stream, bbio_stamp(){values} FROM ({rows}) e RETURNING p.stream
            ) SELECT DISTINCT w.stream FROM w LOOP PERFORM bbio_wake(backend_id, stream_name); END LOOP;"""

    made = ""
    for operation, events in _changes(table).items():
        rows = {"INSERT": ["bbio_new"], "UPDATE": ["bbio_new", "bbio_old"], "DELETE": ["bbio_old"]}[operation]
        lost = " UNION ".join(_lost(table, name) for name in rows)
        made += f"""
    {"ELSIF" if made else "IF"} TG_OP = '{operation}' THEN
        IF NOT EXISTS (SELECT FROM {rows[0]}) THEN
            RETURN NULL;
        ELSIF is_fit AND bbio_has_room((SELECT count(*) FROM {rows[0]})) THEN{
            leave(", method, body, rev", ", e.method, e.body, e.rev", f"SELECT * FROM ({events}) l ORDER BY l.place")
        }
        ELSE{leave("", "", lost)}
        END IF;"""
    return made + "\n    END IF;"


def triggers(table: Table) -> str:
    """Have what other programs write told to clients; running it again changes nothing.

    Parameters:
        table: the table, as it is.
    """
    name, backend = table.place, literal(table.name)
    tell, truncated = _functions(table)
    written = literal(made_of(table))
    declared = f"ARRAY[{', '.join(literal(column) for column in _declared(table))}]"
    creates = "".join(
        f"""
        EXECUTE format('CREATE TRIGGER {trigger} {event.format("%s")} FOR EACH STATEMENT
            WHEN ({IS_TOLD.replace("'", "''")}) EXECUTE FUNCTION %s(%L)', relation, {literal(tell)}, shape);"""
        for trigger, event in TELLING.items()
    )
    return f"""
INSERT INTO bbio_backends (name, epoch)
VALUES ({backend}, left(md5(clock_timestamp()::text || random()), 12)) ON CONFLICT DO NOTHING;
{_function(table)}
CREATE OR REPLACE FUNCTION {truncated}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $bbio$
BEGIN
    PERFORM bbio_begin_epoch({backend});
    RETURN NULL;
END $bbio$;
DO $bbio$ DECLARE
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
{_drops(table, "    ")}
    EXECUTE format('CREATE TRIGGER {REVISING[0]} BEFORE INSERT ON %s FOR EACH ROW
        WHEN ({IS_TOLD.replace("'", "''")}) EXECUTE FUNCTION bbio_revise()', relation);
    EXECUTE format('CREATE TRIGGER {REVISING[1]} BEFORE UPDATE ON %s FOR EACH ROW
        WHEN ({IS_TOLD.replace("'", "''")}) EXECUTE FUNCTION bbio_revise(%s)', relation, ignored);{creates}
    CREATE TRIGGER bbio_truncated AFTER TRUNCATE ON {name} EXECUTE FUNCTION {truncated}();
    EXECUTE format('COMMENT ON TRIGGER bbio_insert ON %s IS %L', relation, written);
END $bbio$;
"""


def _declared(table: Table) -> list[str]:
    return [*table.key[:-1], table.id_name, "rev", *(column.name for column in table.columns)]


def _function(table: Table) -> str:
    """What tells of rows. Where a column that it reads is gone or another one, it tells that there were some."""
    fit = f"bbio_shape(TG_RELID, ARRAY[{', '.join(map(literal, _declared(table)))}]) = TG_ARGV[0]"
    option = ""
    virtual = _virtual(table)
    if virtual:
        # The names in what they are worked out from are columns.
        option = "\n#variable_conflict use_column"
        names, hows = (", ".join(map(literal, each)) for each in (virtual, virtual.values()))
        fit += f""" AND ARRAY(
        SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
        JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE a.attrelid = TG_RELID AND a.attname IN ({names}) ORDER BY a.attname) = ARRAY[{hows}]"""
    return f"""CREATE OR REPLACE FUNCTION {_functions(table)[0]}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $bbio${option}
DECLARE
    backend_id integer := (SELECT b.id FROM bbio_backends b WHERE b.name = {literal(table.name)});
    is_fit boolean := {fit};
    stream_name text;
BEGIN{_telling(table)}
    RETURN NULL;
END $bbio$;"""


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
