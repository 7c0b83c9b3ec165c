"""Queries on the table of a PostgresStore: by its column of ids, and by documents or columns."""

from __future__ import annotations

from collections.abc import Sequence

from bbio.builtin import sql
from bbio.builtin.postgres.tables import NUMBER_ID, Table, quote
from bbio.builtin.sql import Bind, PostgreSQL
from bbio.query.ordering import FALSE, MAX_TEXT, MISSING, NULL, NUMBER, TEXT, TRUE, Key, Path

_COLLATED = '({} COLLATE "C")'
_NO_TEXT = _COLLATED.format("''::text")
_NO_NUMBER = "(0::numeric)"
_IS_NUMBER, _IS_TEXT = f"({NUMBER}::numeric)", f"({TEXT}::numeric)"


class Rows(PostgreSQL):
    """Models in the rows of a table.

    Parameters:
        table: the table.
    """

    constants = (_NO_NUMBER, _NO_TEXT, _IS_NUMBER, _IS_TEXT)

    def __init__(self, table: Table) -> None:
        super().__init__(table.id_attribute)
        self._columns = {} if table.is_document else {column.name: column for column in table.columns}
        self._is_document = table.is_document
        self._id_type = table.id_type
        self._id = table.id_column

    def key(self, path: Path, bind: Bind) -> list[str]:
        if self._is_document:
            return super().key(path, bind)
        column = self._columns.get(path[0])
        if column is None or (len(path) > 1 and column.type != "jsonb"):
            return [f"({MISSING}::numeric)", _NO_NUMBER, _NO_TEXT]
        name = quote(column.name)
        if column.type == "jsonb":
            return super().key(path, bind)
        if column.type == "boolean":
            return [
                f"(CASE {name} WHEN true THEN {TRUE} WHEN false THEN {FALSE} ELSE {NULL} END)",
                _NO_NUMBER,
                _NO_TEXT,
            ]
        kind = NUMBER if column.is_number else TEXT
        rank = f"(CASE WHEN {name} IS NULL THEN {NULL} ELSE {kind} END)"
        if column.is_number:
            return [rank, f"({column.number.format(name)})", _NO_TEXT]
        return [rank, _NO_NUMBER, _COLLATED.format(f"coalesce(left({column.text.format(name)}, {MAX_TEXT + 1}), '')")]

    def id_key(self) -> list[str]:
        if self._id_type == "uuid":
            return [_IS_TEXT, _NO_NUMBER, _COLLATED.format(f"{self._id}::text")]
        if self._id_type not in ("text", "bpchar"):
            return [_IS_NUMBER, f"({self._id}::numeric)", _NO_TEXT]
        id = self._id if self._id_type == "text" else f"{self._id}::text"
        is_number = NUMBER_ID.format(id)
        return [
            f"(CASE WHEN {is_number} THEN {NUMBER} ELSE {TEXT} END)",
            f"(CASE WHEN {is_number} THEN {id}::numeric ELSE 0 END)",
            _COLLATED.format(
                f"(CASE WHEN {is_number} THEN '' WHEN left({id}, 1) = '\"' THEN {id}::jsonb #>> '{{}}' ELSE {id} END)"
            ),
        ]

    def like(self, path: Path, pattern: list[str], bind: Bind) -> str:
        column = self._columns.get(path[0])
        if path == self.id_path:
            value = self.id_key()[2]
        elif self._is_document or (column is not None and column.type == "jsonb"):
            return super().like(path, pattern, bind)
        else:
            value = "''" if column is None else column.text.format(quote(column.name))
        return f"""({value}) COLLATE "C" LIKE {bind("".join(pattern))}"""

    def contains(self, path: Path, key: Key, bind: Bind) -> str:
        column = self._columns.get(path[0])
        if self._is_document or (column is not None and column.type == "jsonb"):
            return super().contains(path, key, bind)
        return "false"  # nothing else is a list

    def _at(self, path: Path, bind: Bind) -> str:
        if self._is_document:
            return super()._at(path, bind)
        column = self._columns[path[0]].read.format(quote(path[0]))
        whole = f"coalesce({column}, 'null'::jsonb)" if len(path) == 1 else column
        return f"({whole}{''.join(f' -> {bind(name)}' for name in path[1:])})"


def queries_of(table: Table, indexes: Sequence[tuple[Path, ...]]) -> sql.QueryTable:
    """Return the maker of the statements that find the revisions and models of a query in a table."""
    name = table.place
    scope = ("channel",) if table.per_channel else ()
    # By the id, as lists are read page by page.
    paths = [((table.id_attribute,),), *indexes]
    return sql.QueryTable(Rows(table), name, f"{table.revision(name)}, {table.whole(name)}", scope, paths)
