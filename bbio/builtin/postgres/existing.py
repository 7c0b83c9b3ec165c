"""A table that is there already: what its columns hold, which of them is the key, and how models are kept in it."""

from __future__ import annotations

from typing import Any

import attrs

from bbio.builtin.postgres.tables import DOCUMENT, ID_TYPES, TYPES, Column, Table, literal, quote
from bbio.errors import ConfigurationError

# The columns of a table. Domains are taken for what they are made of.
COLUMNS = """
WITH RECURSIVE held AS (
    SELECT attnum, attname::text AS name, format_type(atttypid, atttypmod) AS declared, atttypid AS type, attnotnull
    FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT h.attnum, h.name, h.declared, t.typbasetype, h.attnotnull FROM held h JOIN pg_type t ON t.oid = h.type
    WHERE t.typtype = 'd'
)
SELECT h.name, h.declared, format_type(h.type, NULL), t.typtype = 'e', format_type(e.oid, NULL),
    coalesce(e.typtype = 'e', false), h.attnotnull, coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM held h JOIN pg_type t ON t.oid = h.type
LEFT JOIN pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
LEFT JOIN pg_attrdef d ON d.adrelid = to_regclass($1) AND d.adnum = h.attnum
WHERE t.typtype <> 'd' ORDER BY h.attnum
"""
# What kind of relation it is, the primary key (the name of the rule, and the columns), and what of it, itself or parts,
# does not outlive a crash.
RELATION = """
SELECT c.relkind::text, coalesce(k.conname, ''), coalesce((SELECT array_agg(a.attname::text ORDER BY u.n)
    FROM unnest(k.conkey) WITH ORDINALITY AS u(number, n)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.number), '{}'),
    ARRAY(SELECT p.oid::regclass::text FROM pg_class p WHERE p.relkind = 'r' AND p.relpersistence = 'u'
        AND (p.oid = c.oid OR p.oid IN (SELECT relid FROM pg_partition_tree(c.oid))) ORDER BY 1)
FROM pg_class c LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p' WHERE c.oid = to_regclass($1)
"""
OTHER_RELATIONS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
}

# Types that a column of each kind may have beside those of `TYPES`, with the type that values are given as, how they
# are read, and what they are compared as where that is something else.
ALSO: dict[tuple[str, str], tuple[str, str, str]] = {
    ("string", "character"): ("bpchar", "{}::text", ""),
    ("string", "citext"): ("text", "{}::text", ""),
    ("number", "real"): ("double precision", "{}", "coalesce({}::text::float8, 0)"),
    ("number", "numeric"): ("numeric", "{}", "coalesce({}::float8, 0)"),
    ("any", "json"): ("jsonb", "{}::jsonb", ""),
}
TIMESTAMP = "timestamp without time zone"
# What a field has to be for a column of a type.
PYTHON = {
    "text": "str",
    "character varying": "str",
    "character": "str",
    "citext": "str",
    "boolean": "bool",
    "bigint": "int",
    "integer": "int",
    "smallint": "int",
    "double precision": "float",
    "real": "float",
    "numeric": "Decimal",
    "timestamp with time zone": "datetime",
    TIMESTAMP: "datetime",
    "date": "date",
    "uuid": "UUID",
    "jsonb": "dict",
    "json": "dict",
}
# What the column of revisions is where bbio has made it.
REVISION = ("bigint", True, "0")


@attrs.frozen
class ExistingColumn:
    """A column that is there.

    Parameters:
        name: its name.
        declared: its type, as it was declared.
        type: the type without limits, of a domain what it is made of.
        is_enum: whether that is an enum.
        element: the type of the elements of an array, None where it is none.
        has_enums: whether the elements are of an enum.
        never_null: whether it has a value in every row.
        default: its default in SQL, empty when there is none.
    """

    name: str
    declared: str
    type: str
    is_enum: bool
    element: str | None
    has_enums: bool
    never_null: bool
    default: str


@attrs.frozen
class ExistingTable:
    """A table that is there.

    Parameters:
        kind: what it is, as `pg_class.relkind` has it.
        rule: the name of the rule that makes its key one.
        key: the columns of its primary key.
        columns: all its columns, by name.
        unlogged: what of it PostgreSQL empties after a crash: the table or its parts, in SQL.
    """

    kind: str
    rule: str
    key: tuple[str, ...]
    columns: dict[str, ExistingColumn]
    unlogged: tuple[str, ...]

    @classmethod
    async def look(cls, connection: Any, table: Table) -> ExistingTable | None:
        """A table as it is, None when there is none."""
        relation = await connection.fetchrow(RELATION, table.place)
        if relation is None:
            return None
        kind, rule, key, unlogged = relation
        columns = [ExistingColumn(*row) for row in await connection.fetch(COLUMNS, table.place)]
        return cls(kind, rule, tuple(key), {column.name: column for column in columns}, tuple(unlogged))

    @property
    def has_revisions(self) -> bool:
        """Return whether the table has the column of revisions that bbio makes."""
        rev = self.columns.get("rev")
        return rev is not None and (rev.declared, rev.never_null, rev.default.strip("'").split("'")[0]) == REVISION


def adapted(table: Table, found: ExistingTable, zone: str | None) -> tuple[Table, list[str]]:
    """The table as it is kept where it is there already, and the statements that bring it up to date.

    Nothing that is there is changed: columns are added.

    Parameters:
        table: the table.
        found: what is there.
        zone: the time zone of times that are kept without one.

    Raises:
        ConfigurationError: it cannot hold these models; the text says how to mend it.
    """
    columns = found.columns
    if found.kind not in ("r", "p"):
        raise ConfigurationError(
            f"{table.name!r} is {OTHER_RELATIONS.get(found.kind, 'no table')}; name the table that holds the models: "
            f"PostgresStore(..., table='models')"
        )
    if found.unlogged:
        raise ConfigurationError(
            f"the table {table.name!r} is UNLOGGED: PostgreSQL empties it after a crash, and what pages hold would be "
            f"gone without a word; have it kept: "
            + "; ".join(f"ALTER TABLE {place} SET LOGGED" for place in found.unlogged)
        )
    table = attrs.evolve(_keyed(table, found), rule=found.rule)
    if table.revised and "rev" in columns and not found.has_revisions:
        raise ConfigurationError(
            f"the table {table.name!r} has a column 'rev' of its own, {columns['rev'].declared}, and bbio numbers what "
            f"happens to a model in a column of that name: have it kept beside the table, "
            f"PostgresStore(..., revisions='beside'), or serve it once its owner has given that column another name, "
            f"in the programs that use it too"
        )
    if _is_document(table, columns):
        return attrs.evolve(table, columns=(DOCUMENT,)), []
    fitting = [
        fitted(table, column, columns[column.name], zone) if column.name in columns else column
        for column in table.columns
    ]
    alter = f"ALTER TABLE {table.place}"
    added = [column for column in table.columns if column.name not in columns]
    statements = [f"{alter} ADD {column.declared(True)}" for column in added]
    statements += [f"{alter} ALTER {quote(column.name)} DROP DEFAULT" for column in added if not column.lasting]
    if statements and not table.revised:
        raise ConfigurationError(
            f"the table {table.name!r} has no {', '.join(repr(column.name) for column in added)}, and nothing is added "
            f"to a table whose revisions are kept beside it; leave that out of the model, or add it: "
            + "; ".join(statements)
        )
    if table.revised and "rev" not in columns:
        statements.append(f"{alter} ADD rev bigint NOT NULL DEFAULT 0")
    return attrs.evolve(table, columns=tuple(fitting)), statements


def _is_document(table: Table, columns: dict[str, ExistingColumn]) -> bool:
    """Return whether the table was begun without a schema."""
    body = columns.get("body")
    return (
        body is not None
        and body.type == "jsonb"
        and not any(column.name in columns for column in table.columns if column is not DOCUMENT)
    )


def _keyed(table: Table, found: ExistingTable) -> Table:
    """The table, knowing its column of ids."""
    names, columns = ", ".join(sorted(found.columns)), found.columns
    if ("channel" in columns) != table.per_channel:
        raise ConfigurationError(
            f"the table {table.name!r} has the columns {names}, and not, beside those of the model, "
            f"{', '.join(table.key)}; name another: PostgresStore(..., table='models')"
        )
    ids = [name for name in found.key if name != "channel" or not table.per_channel]
    if not ids or ("channel" in found.key) != table.per_channel:
        wanted = [name for name in (table.id_attribute, "id") if name in columns][:1]
        key = ", ".join(quote(name) for name in (["channel"] if table.per_channel else []) + wanted)
        raise ConfigurationError(
            f"the table {table.name!r} has no primary key of {', '.join(table.key)} to tell its models apart; it has "
            f"the columns {names}"
            + (
                f"; give it one: ALTER TABLE {table.place} ADD PRIMARY KEY ({key})"
                if wanted
                else "; name another: PostgresStore(..., table='models')"
            )
        )
    if len(ids) > 1:
        raise ConfigurationError(
            f"the primary key of the table {table.name!r} is made of {', '.join(ids)}; the id of a model is one "
            "column: name a table that has one"
        )
    (id,) = ids
    if id not in ("id", table.id_attribute):
        raise ConfigurationError(
            f"the primary key of the table {table.name!r} is {id!r}; name it: "
            f"PostgresStore(..., id_attribute={id!r}), and idAttribute in the page"
        )
    clash = next((column.name for column in table.columns if column.name == id), None)
    if clash is not None:
        raise ConfigurationError(
            f"the field {id!r} cannot be a column of the table {table.name!r}, whose id it is; "
            f"name it: PostgresStore(..., id_attribute={id!r})"
        )
    kept = columns[id].type
    if kept not in ("text", "character varying", "character", *ID_TYPES):
        raise ConfigurationError(
            f"the column {id!r} of the table {table.name!r} is {columns[id].declared}; an id is a string, a UUID or a "
            f"whole number ({', '.join(['text', 'varchar', 'char', *ID_TYPES])}): name a table that has one"
        )
    return attrs.evolve(
        table, id_name=id, id_type={"character": "bpchar"}.get(kept, kept if kept in ID_TYPES else "text")
    )


def fitted(table: Table, column: Column, kept: ExistingColumn, zone: str | None) -> Column:
    """A column as it is kept where it is there already.

    Raises:
        ConfigurationError: its values are not those of the field; the text says how to mend it.
    """
    value = f"u.body ->> {literal(column.name)}"
    if kept.type in column.fits:
        return column
    if kept.is_enum and column.kind == "string":
        return attrs.evolve(column, read="{}::text", write=f"({value})::{kept.type}")
    if kept.type == TIMESTAMP and column.kind == "date-time":
        if zone is None:
            raise ConfigurationError(
                f"the column {column.name!r} of the table {table.name!r} is {kept.declared}, which does not say of "
                f"which time zone its times are; say it: PostgresStore(..., zone='UTC')"
            )
        at = f"AT TIME ZONE {literal(zone)}"
        return attrs.evolve(column, read=f"bbio_text({{}} {at})", write=f"(({value})::timestamptz {at})")
    also = ALSO.get((column.kind if column.type != "jsonb" else "any", kept.type))
    if also is not None:
        type, read, number = also
        write = column.write if type == "jsonb" else f"({value})::{type}"
        return attrs.evolve(column, read=read, write=write, number=number or column.number)
    if kept.element is not None and column.elements is not None:
        fits = TYPES.get(column.elements, ("", (), ""))
        if kept.element in (fits[0], *fits[1]) or (kept.has_enums and column.elements == "string"):
            items = f"u.body -> {literal(column.name)}"
            write = (
                f"CASE jsonb_typeof({items}) WHEN 'array' THEN ARRAY(SELECT a.item::{kept.element} "
                f"FROM jsonb_array_elements_text({items}) WITH ORDINALITY AS a(item, n) ORDER BY a.n) END"
            )
            return attrs.evolve(column, read="to_jsonb({})", write=write)
    python = "str" if kept.is_enum else PYTHON.get(kept.type)
    if kept.element is not None:
        item = "str" if kept.has_enums else PYTHON.get(kept.element)
        python = f"list[{item}]" if item in ("str", "bool", "int", "float", "UUID") else None
    advice = f"declare it as {python}" if python else "leave it out of the model"
    raise ConfigurationError(
        f"the column {column.name!r} of the table {table.name!r} is {kept.declared}, which does not hold what the "
        f"field {column.name!r} is ({column.wanted}); {advice}, or name another table"
    )


def undeclared(table: Table, found: ExistingTable) -> list[str]:
    """The columns that need a value which no new model has: they are in no field, and have no default."""
    known = {table.id_name, "channel", *table.revised, *(column.name for column in table.columns)}
    return sorted(
        name for name, kept in found.columns.items() if kept.never_null and not kept.default and name not in known
    )
