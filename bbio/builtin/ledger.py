"""The ledger of consumers in a database: the statements, which SQLite and PostgreSQL read alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bbio.log.consumers import ConsumerState, Ledger, Letter, Step
from bbio.streams import Event, Position

# A statement and what is bound to it, several times over where it is to be run so often.
Statement = tuple[str, Sequence[tuple[Any, ...]]]

# Stands for the seconds of the database's own clock.
NOW = "{now}"
# A lease that ends so much later than any could was taken before the clock was set back.
LONGEST_LEASE_SECONDS = 3_600.0

_OF = "backend = $1 AND name = $2"
_ID = f"(SELECT id FROM bbio_consumers WHERE {_OF})"

REGISTER = f"""
INSERT INTO bbio_consumers (backend, name, channel, epoch, fence, until, idle, lost)
VALUES ($1, $2, $3, $4, 0, 0, {NOW}, 0) ON CONFLICT (backend, name) DO NOTHING RETURNING id"""
MOVE = f"""
INSERT INTO bbio_consumer_positions (consumer, stream, epoch, position, stamp)
SELECT id, CAST($3 AS text), CAST($4 AS text), CAST($5 AS bigint), CAST($6 AS bigint)
FROM bbio_consumers WHERE {_OF}
ON CONFLICT (consumer, stream) DO UPDATE
SET epoch = excluded.epoch, position = excluded.position, stamp = excluded.stamp"""
LEAVE = f"DELETE FROM bbio_consumer_positions WHERE consumer = {_ID}"
STATES = f"""
SELECT c.name, c.channel, c.epoch, c.worker, c.until - {NOW}, {NOW} - c.idle, c.lost,
    (SELECT count(*) FROM bbio_letters l WHERE l.consumer = c.id), p.stream, p.epoch, p.position, p.stamp
FROM bbio_consumers c LEFT JOIN bbio_consumer_positions p ON p.consumer = c.id
WHERE c.backend = $1 ORDER BY c.name"""
CLAIM = f"""
UPDATE bbio_consumers SET worker = $3, fence = fence + 1, until = {NOW} + $4
WHERE {_OF} AND (worker IS NULL OR worker = $3 OR until < {NOW} OR until > {NOW} + {LONGEST_LEASE_SECONDS})
RETURNING fence"""
RENEW = f"UPDATE bbio_consumers SET until = {NOW} + $4 WHERE {_OF} AND fence = $3 RETURNING fence"
RELEASE = f"UPDATE bbio_consumers SET worker = NULL, until = 0 WHERE {_OF} AND fence = $3 RETURNING fence"
KEEP = f"""
UPDATE bbio_consumers SET epoch = coalesce($4, epoch), lost = lost + $5,
    idle = CASE WHEN CAST($6 AS integer) = 1 THEN {NOW} ELSE idle END
WHERE {_OF} AND fence = $3 RETURNING fence"""
SET_ASIDE = f"""
INSERT INTO bbio_letters
    (consumer, model, stream, epoch, position, method, body, rev, at, stamp, attempts, error, state, failed)
SELECT c.id, CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), CAST($6 AS bigint), CAST($7 AS text),
    CAST($8 AS text), CAST($9 AS bigint), CAST($10 AS double precision), CAST($11 AS bigint), CAST($12 AS integer),
    CAST($13 AS text),
    CASE WHEN CAST($14 AS text) = 'dead' THEN 'dead'
        WHEN EXISTS (SELECT 1 FROM bbio_letters l WHERE l.consumer = c.id AND l.model = CAST($3 AS text)) THEN 'behind'
        ELSE 'again' END, {NOW}
FROM bbio_consumers c WHERE {_OF}"""
FAIL_AGAIN = f"""
UPDATE bbio_letters SET state = 'dead', attempts = attempts + $4, error = $5, failed = {NOW}
WHERE id = $3 AND consumer = {_ID}"""
DROP = f"DELETE FROM bbio_letters WHERE id = $3 AND consumer = {_ID} RETURNING id"
PROMOTE = f"""
UPDATE bbio_letters SET state = 'again' WHERE state = 'behind' AND id IN (
    SELECT min(id) FROM bbio_letters WHERE consumer = {_ID} GROUP BY model)"""
PUT_BACK = f"""
UPDATE bbio_letters SET state = 'again' WHERE id = $3 AND consumer = {_ID} AND state = 'dead' RETURNING id"""
HELD = f"SELECT model, count(*) FROM bbio_letters WHERE consumer = {_ID} GROUP BY model"
LETTERS = f"""
SELECT id, model, stream, epoch, position, method, body, rev, at, stamp, attempts, error, state, failed
FROM bbio_letters WHERE consumer = {_ID} AND (CAST($3 AS integer) = 0 OR state = 'again') ORDER BY id LIMIT $4"""
# Whoever changes letters waits for who does: what is behind a letter must not miss that this one is gone.
LOCK = f"UPDATE bbio_consumers SET lost = lost WHERE {_OF} RETURNING id"
IDLE = f"""
SELECT id FROM bbio_consumers WHERE {_OF} AND (worker IS NULL OR until < {NOW})"""
FORGET = (
    f"DELETE FROM bbio_letters WHERE consumer = {_ID}",
    f"DELETE FROM bbio_consumer_positions WHERE consumer = {_ID}",
    f"DELETE FROM bbio_consumers WHERE {_OF}",
)

# The tables, with what databases write differently.
TABLES = (
    "CREATE TABLE bbio_consumers (id {serial}, backend integer NOT NULL, name text NOT NULL, channel text,"
    " epoch text NOT NULL, worker text, fence bigint NOT NULL, until double precision NOT NULL,"
    " idle double precision NOT NULL, lost bigint NOT NULL, UNIQUE (backend, name))",
    "CREATE TABLE bbio_consumer_positions (consumer bigint NOT NULL, stream text NOT NULL, epoch text NOT NULL,"
    " position bigint NOT NULL, stamp bigint NOT NULL, PRIMARY KEY (consumer, stream))",
    "CREATE TABLE bbio_letters (id {serial}, consumer bigint NOT NULL, model text NOT NULL, stream text NOT NULL,"
    " epoch text NOT NULL, position bigint NOT NULL, method text NOT NULL, body text NOT NULL, rev bigint,"
    " at double precision NOT NULL, stamp bigint NOT NULL, attempts integer NOT NULL, error text NOT NULL,"
    " state text NOT NULL, failed double precision NOT NULL)",
    "CREATE INDEX bbio_letters_model ON bbio_letters (consumer, model, id)",
)


class SQLLedger(Ledger):
    """Keeps the states of consumers in the database of their backend.

    Parameters:
        backend: the number of the backend.

    Class attributes:
        now: the SQL of the seconds since 1970, by one clock for all processes of the database.
    """

    now: ClassVar[str]

    def __init__(self, backend: int) -> None:
        self.backend = backend

    def text(self, statement: str) -> str:
        """Return a statement as this database reads it."""
        return statement.replace(NOW, self.now)

    @abstractmethod
    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Return the rows of a statement that changes nothing."""

    @abstractmethod
    async def run(self, first: str, values: tuple[Any, ...], rest: Sequence[Statement] = ()) -> list[Any]:
        """Run statements in one transaction, and return the rows of each; the rest only if the first has any.

        Parameters:
            first: a statement that returns rows.
            values: what is bound to it.
            rest: more statements. The rows of what is run several times may be left out.

        Raises:
            SyncError: the database cannot be used.
        """

    def _moves(self, name: str, positions: Mapping[str, Position]) -> Statement:
        return MOVE, [
            (self.backend, name, stream, each.epoch, each.offset, each.stamp) for stream, each in positions.items()
        ]

    async def register(self, name: str, channel: str | None, epoch: str, positions: Mapping[str, Position]) -> None:
        await self.run(REGISTER, (self.backend, name, channel, epoch), [self._moves(name, positions)])

    async def states(self) -> list[ConsumerState]:
        found: dict[str, tuple[Any, dict[str, Position]]] = {}
        for name, *rest, stream, epoch, offset, stamp in await self.fetch(STATES, self.backend):
            _, positions = found.setdefault(name, (rest, {}))
            if stream is not None:
                positions[stream] = Position(epoch, offset, stamp)
        return [
            ConsumerState(
                name=name,
                channel=channel,
                epoch=epoch,
                positions=positions,
                worker=worker,
                lease=float(lease),
                idle=float(idle),
                lost=lost,
                letters=letters,
            )
            for name, ((channel, epoch, worker, lease, idle, lost, letters), positions) in found.items()
        ]

    async def claim(self, name: str, worker: str, seconds: float) -> int | None:
        rows = await self.run(CLAIM, (self.backend, name, worker, seconds))
        return int(rows[0][0][0]) if rows else None

    async def renew(self, name: str, fence: int, seconds: float) -> bool:
        return bool(await self.run(RENEW, (self.backend, name, fence, seconds)))

    async def release(self, name: str, fence: int) -> None:
        await self.run(RELEASE, (self.backend, name, fence))

    async def keep(self, name: str, fence: int, step: Step) -> bool:
        here = (self.backend, name)
        rest: list[Statement] = []
        if step.replaces:
            rest.append((LEAVE, [here]))
        if step.positions:
            rest.append(self._moves(name, step.positions))
        # One after the other: what is behind another one must find it.
        rest += [(SET_ASIDE, [(*here, *_row(letter))]) for letter in step.letters]
        rest += [(FAIL_AGAIN, [(*here, each.id, each.attempts, each.error)]) for each in step.failed]
        if step.settled:
            rest += [(DROP, [(*here, id) for id in step.settled]), (PROMOTE, [here])]
        values = (*here, fence, step.epoch, step.lost, int(step.is_idle))
        return bool(await self.run(KEEP, values, rest))

    async def held(self, name: str) -> dict[str, int]:
        return dict(await self.fetch(HELD, self.backend, name))

    async def letters(self, name: str, *, again: bool = False, most: int = 1_000) -> list[Letter]:
        rows = await self.fetch(LETTERS, self.backend, name, int(again), most)
        return [_letter(*row) for row in rows]

    async def put_back(self, name: str, id: int) -> bool:
        return await self._change(name, (PUT_BACK, [(self.backend, name, id)]))

    async def skip(self, name: str, id: int) -> bool:
        here = (self.backend, name)
        return await self._change(name, (DROP, [(*here, id)]), (PROMOTE, [here]))

    async def _change(self, name: str, *statements: Statement) -> bool:
        """Change letters; return whether the first statement found one."""
        rows = await self.run(LOCK, (self.backend, name), statements)
        return bool(rows and rows[1])

    async def forget(self, name: str) -> bool:
        here = (self.backend, name)
        return bool(await self.run(IDLE, here, [(statement, [here]) for statement in FORGET]))


def _row(letter: Letter) -> tuple[Any, ...]:
    event = letter.event
    return (
        letter.model,
        event.stream,
        event.epoch,
        event.offset,
        event.method,
        event.body.decode(),
        event.rev,
        event.when,
        event.stamp,
        letter.attempts,
        letter.error,
        letter.state,
    )


def _letter(id: int, model: str, *rest: Any) -> Letter:
    stream, epoch, offset, method, body, rev, at, stamp, attempts, error, state, failed = rest
    event = Event(stream, epoch, offset, method, body.encode(), rev, None, at, stamp)
    return Letter(id=id, model=model, event=event, attempts=attempts, error=error, state=state, failed=failed)
