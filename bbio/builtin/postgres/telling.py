"""The triggers' record of the changes of a statement, as the body of a function of PL/pgSQL.

The function leaves events in `bbio_pending`, without a number. It also gives revisions that are kept beside the table.
"""

from __future__ import annotations

from bbio.builtin.postgres.beside import Beside
from bbio.builtin.postgres.tables import Table, quote

# The rows of each kind of statement.
ROWS = {"INSERT": ["bbio_new"], "UPDATE": ["bbio_new", "bbio_old"], "DELETE": ["bbio_old"]}


def key_of(table: Table) -> list[str]:
    """The columns of the key."""
    return [*table.key[:-1], table.id_name]


def declared_in(table: Table) -> list[str]:
    """The columns that triggers read."""
    return [*key_of(table), *table.revised, *(column.name for column in table.columns)]


def _stream(table: Table, row: str) -> str:
    return f"'c:' || {row}.channel" if table.per_channel else "'*'"


def _events(table: Table, row: str, method: str, rev: str, place: str, was: tuple[str, str]) -> str:
    """The events of rows, to be put in front of where they come from.

    Parameters:
        table: the table.
        row: the name of the row that an event tells of.
        method: the method of the event.
        rev: the revision of the row.
        place: what the events are ordered by.
        was: the model before and after, as JSON text.
    """
    stream, body = _stream(table, row), table.whole(row, True)
    if table.keeps_was:
        sides = ", ".join(f"({side})::jsonb" for side in (*was, body))
        place += f" AS place, bbio_was_of({sides}) AS was"
    else:
        place += " AS place"
    # Those whose revisions are kept beside the table are given one afterwards, by channel and id.
    given = _entry(table, row) if isinstance(table, Beside) else f"{rev} AS rev"
    return f"SELECT {stream} AS stream, {method} AS method, {body} AS body, {given}, {place}"


def _entry(table: Beside, row: str) -> str:
    return "{} AS channel, {} AS id".format(*table.about(row))


def _numbered(table: Table, rows: str, place: str, order: str) -> str:
    """The rows that a statement has found or left, each key once."""
    columns = ", ".join(f"w.{quote(name)}" for name in sorted({*declared_in(table)}))
    key = ", ".join(f"r.{column}" for column in table.key_columns)
    return (
        f"SELECT DISTINCT ON ({key}) r.* FROM"
        f" (SELECT {columns}, row_number() OVER () AS {place} FROM {_worked_out(table, rows)} w) r"
        f" ORDER BY {key}, r.{place}{order}"
    )


def _worked_out(table: Table, rows: str) -> str:
    """The rows that a statement has found or left. Virtual columns are NULL in them, and are worked out."""
    virtual = virtual_of(table)
    if not virtual:
        return rows
    others = [f"w.{quote(name)}" for name in sorted({*declared_in(table)} - virtual.keys())]
    columns = ", ".join([*others, *(f"({how}) AS {quote(name)}" for name, how in virtual.items())])
    return f"(SELECT {columns} FROM {rows} w)"


def virtual_of(table: Table) -> dict[str, str]:
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
    id = table.id_column
    old, new = table.whole("o"), table.whole("n")
    is_gone, is_new = (old, "NULL"), ("NULL", new)
    gone = _events(table, "o", "'delete'", "o.rev + 1", f"o.{place}", is_gone)
    method = f"CASE WHEN o.{id} IS NULL THEN 'create' ELSE 'update' END"
    # Those whose key is new come after those whose key is gone.
    before = f"CASE WHEN o.{id} IS NOT NULL THEN {old} END"
    left = _events(table, "n", method, "n.rev", f"(SELECT count(*) FROM o) + n.{place}", (before, new))
    made = _events(table, "n", "'create'", "n.rev", "row_number() OVER ()", is_new)
    lost = _events(table, "o", "'delete'", "o.rev + 1", "row_number() OVER ()", is_gone)
    return {
        "INSERT": f"{made} FROM {_worked_out(table, 'bbio_new')} n",
        "UPDATE": (
            f"WITH o AS ({first}), n AS ({last}) {gone} FROM o WHERE NOT EXISTS (SELECT FROM n WHERE {same})"
            f" UNION ALL {left} FROM n LEFT JOIN o ON {same}"
            f" WHERE o.{id} IS NULL OR {_is_changed(table)}"
        ),
        "DELETE": f"{lost} FROM {_worked_out(table, 'bbio_old')} o",
    }


def _is_changed(table: Table) -> str:
    """Return the SQL that says whether the model in row `n` differs from the one in its former row `o`."""
    if not isinstance(table, Beside):
        return "o.rev <> n.rev"
    # As bytes: not all types can be compared otherwise.
    old, new = (", ".join(f"{row}.{quote(column.name)}" for column in table.columns) for row in "on")
    return f"ROW({old})::record OPERATOR(pg_catalog.*<>) ROW({new})::record"


def _lost(table: Table, rows: str) -> str:
    """The stream that rows would be told in, where they are not told one by one."""
    return (
        f"SELECT DISTINCT {_stream(table, 'w')} AS stream FROM {rows} w"
        if table.per_channel
        else "SELECT '*' AS stream"
    )


def _was(table: Table) -> tuple[str, str]:
    """The column that holds how records were, and its value, where a backend needs it."""
    return (", was", ", e.was") if table.keeps_was else ("", "")


def _leave(rows: str, columns: str = "", values: str = "") -> str:
    """Leave rows, of the alias `e`, in `bbio_pending`, and wake the servers."""
    return f"""
            FOR stream_name IN WITH w AS (
                INSERT INTO bbio_pending AS p (backend, stream, stamp{columns})
                SELECT backend_id, e.stream, bbio_stamp(){values} FROM ({rows}) e RETURNING p.stream
            ) SELECT DISTINCT w.stream FROM w LOOP PERFORM bbio_wake(backend_id, stream_name); END LOOP;"""


def _telling_in_place(table: Table) -> str:
    """Return the SQL that leaves events in `bbio_pending` for each kind of statement and wakes the servers."""
    made = ""
    was, values = _was(table)
    columns, values = f", method, body, rev{was}", f", e.method, e.body, e.rev{values}"
    for operation, events in _changes(table).items():
        rows = ROWS[operation]
        lost = " UNION ".join(_lost(table, name) for name in rows)
        made += f"""
    {"ELSIF" if made else "IF"} TG_OP = '{operation}' THEN
        IF NOT EXISTS (SELECT FROM {rows[0]}) THEN
            RETURN NULL;
        ELSIF is_fit AND bbio_has_room((SELECT count(*) FROM {rows[0]})) THEN{
            _leave(f"SELECT * FROM ({events}) l ORDER BY l.place", columns, values)
        }
        ELSE{_leave(lost)}
        END IF;"""
    return made + "\n    END IF;"


# Revisions of the models in some rows, which may have one already; none of models that are gone.
REVISE = """INSERT INTO bbio_revs AS r (backend, channel, id, rev)
                SELECT backend_id, e.channel, e.id, number FROM ({}) e
                ON CONFLICT (backend, id, channel) DO UPDATE SET rev = greatest(excluded.rev, r.rev + 1)"""
FORGET = """DELETE FROM bbio_revs r USING ({}) e
                WHERE r.backend = backend_id AND r.channel = e.channel AND r.id = e.id;"""


def _telling_beside(table: Beside) -> str:
    """Return the SQL of `_telling_in_place`, and the SQL that gives the models their revisions."""
    same = " AND ".join(f"o.{column} = n.{column}" for column in table.key_columns)
    gone = f"bbio_old o WHERE NOT EXISTS (SELECT FROM bbio_new n WHERE {same})"
    # Each key once: a row that several foreign keys change at a time is there as often.
    once = f"SELECT DISTINCT ON ({', '.join(f'n.{column}' for column in table.key_columns)}) {_entry(table, 'n')}"
    left = f"{once} FROM bbio_new n"
    changed = (
        f"{once} FROM {_worked_out(table, 'bbio_new')} n"
        f" LEFT JOIN {_worked_out(table, 'bbio_old')} o ON {same}"
        f" WHERE o.{table.id_column} IS NULL OR {_is_changed(table)}"
    )
    # Of rows that are not told one by one. Where the table is another one than it was, all count as changed.
    revising = {
        "INSERT": f"""
            IF is_keyed THEN
                {REVISE.format(left)};
            END IF;""",
        "UPDATE": f"""
            IF is_fit THEN
                {REVISE.format(changed)};
            ELSIF is_keyed THEN
                {REVISE.format(left)};
            END IF;""",
        "DELETE": "",
    }
    # Apart, so that who is strictly isolated has read nothing of others where nothing is gone.
    forgetting = {
        "INSERT": "",
        "UPDATE": f"""
        IF is_keyed THEN
            IF EXISTS (SELECT FROM {gone}) THEN
                {FORGET.format(f"SELECT {_entry(table, 'o')} FROM {gone}")}
            END IF;
        END IF;""",
        "DELETE": f"""
        IF is_keyed THEN
                {FORGET.format(f"SELECT {_entry(table, 'o')} FROM bbio_old o")}
        END IF;""",
    }
    made = ""
    was, value = _was(table)
    for operation, events in _changes(table).items():
        rows = ROWS[operation]
        lost = " UNION ".join(_lost(table, name) for name in rows)
        made += f"""
    {"ELSIF" if made else "IF"} TG_OP = '{operation}' THEN
        IF NOT EXISTS (SELECT FROM {rows[0]}) THEN
            RETURN NULL;
        END IF;
        number := nextval('bbio_revisions');
        IF is_fit AND bbio_has_room((SELECT count(*) FROM {rows[0]})) THEN
            FOR stream_name IN WITH events AS MATERIALIZED ({events}), kept AS (
                {REVISE.format("SELECT DISTINCT v.channel, v.id FROM events v")} RETURNING r.channel, r.id, r.rev
            ), w AS (
                INSERT INTO bbio_pending AS p (backend, stream, stamp, method, body, rev{was})
                SELECT backend_id, e.stream, bbio_stamp(), e.method, e.body, e.rev{value} FROM (
                    SELECT v.*, k.rev FROM events v
                    JOIN kept k ON k.channel = v.channel AND k.id = v.id ORDER BY v.place
                ) e RETURNING p.stream
            ) SELECT DISTINCT w.stream FROM w LOOP PERFORM bbio_wake(backend_id, stream_name); END LOOP;
        ELSE{_leave(lost)}{revising[operation]}
        END IF;{forgetting[operation]}"""
    return made + "\n    END IF;"


def telling(table: Table) -> str:
    """Return the body of the triggers' function, for each kind of statement.

    Parameters:
        table: the table, as it is.
    """
    return _telling_beside(table) if isinstance(table, Beside) else _telling_in_place(table)
