"""The statements of PostgresStore that are the same for all tables of models."""

from __future__ import annotations

# A write

FIND_OPERATIONS = """
    SELECT operation, digest, record, stream, epoch, position, method, body, rev, op, at, stamp FROM bbio_operations
    WHERE backend = $1 AND operation = ANY ($2::bytea[])
"""
# A lock is written to the disk, and to standbys that are waited for, and all that was there before it is then too.
FIND_LASTING_OPERATIONS = FIND_OPERATIONS + "ORDER BY id FOR KEY SHARE"
# What triggers have left for these streams, to be numbered.
COLLECT = "SELECT bbio_collect($1::integer, $2::text[])"
ADD_STREAMS = """
    INSERT INTO bbio_streams (backend, name, epoch, top, size, trimmed, at)
    SELECT b.id, u.name, b.epoch, 0, 0, 0, $3::double precision
    FROM (SELECT id, epoch FROM bbio_backends WHERE id = $1 FOR SHARE) b, unnest($2::text[]) AS u(name) ORDER BY u.name
    ON CONFLICT DO NOTHING
"""


KEPT = """, kept AS (
        INSERT INTO bbio_operations
            (backend, operation, digest, stream, epoch, position, method, body, rev, op, record, at, stamp)
        SELECT $1::integer, operation, digest, ($2::text[])[number], epoch, position, method, body, rev, op, record,
            $5::double precision, $6::bigint
        FROM events WHERE operation IS NOT NULL
    )"""
KEPT_WAS = """, were AS (
        INSERT INTO bbio_was (stream, position, was) SELECT stream, position, was FROM events WHERE was IS NOT NULL
    )"""


def _log(operations: bool, was: bool) -> str:
    """Lock streams, in an order that all share, and add events to them, whose places follow each stream's top.

    Nothing is added while a stream is missing, or is to be told of what triggers have left. Whoever is told of a commit
    must be able to rely on it, whatever the settings of the role are.

    Parameters:
        operations: whether the operations are kept that have brought the events about: three arrays more.
        was: whether it is kept how the records were: one array more, the last.
    """
    names = (", operation, digest, record" if operations else "") + (", was" if was else "")
    types = ", $13::bytea[], $14::bigint[], $15::text[]" if operations else ""
    kept = KEPT if operations else ""
    if was:
        types += ", $16::text[]" if operations else ", $13::text[]"
        kept += KEPT_WAS
    # An event names its stream by its number among those that are asked for: what arrays hold is found without a join.
    return f"""
    WITH found AS MATERIALIZED (
        SELECT id, name, epoch, top, size, trimmed, stamp FROM bbio_streams
        WHERE backend = $1 AND name = ANY ($2::text[]) ORDER BY name FOR UPDATE
    ), ready AS MATERIALIZED (
        SELECT ids, epochs, tops FROM (
            SELECT count(*) AS count, array_agg(id) AS ids, array_agg(epoch) AS epochs, array_agg(top) AS tops
            FROM (SELECT id, epoch, top FROM found ORDER BY array_position($2::text[], name)) AS numbered
        ) AS locked
        WHERE count = cardinality($2::text[]) AND NOT EXISTS (
            SELECT FROM bbio_pending p WHERE p.backend = $1 AND p.stream = ANY ($2::text[])
            AND p.stamp IS DISTINCT FROM nullif(current_setting('bbio.stamp', true), '')::bigint
        )
    ), changed AS (
        UPDATE bbio_streams s SET top = s.top + u.count, size = s.size + u.size, at = $5, stamp = $6
        FROM ready, unnest(ready.ids, $3::bigint[], $4::bigint[]) AS u(id, count, size)
        WHERE s.id = u.id AND u.count > 0
    ), events AS (
        SELECT ids[u.number] AS stream, epochs[u.number] AS epoch, tops[u.number] + u.place AS position, u.*
        FROM ready, unnest($7::integer[], $8::bigint[], $9::text[], $10::text[], $11::bigint[], $12::text[]{types})
            AS u(number, place, method, body, rev, op{names})
    ), logged AS (
        INSERT INTO bbio_log (stream, position, method, body, rev, op, at, stamp)
        SELECT stream, position, method, body, rev, op, $5::double precision, $6::bigint FROM events
    ){kept}
    SELECT EXISTS (SELECT FROM ready),
        (SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'),
        found.* FROM (VALUES (1)) AS one LEFT JOIN found ON true
"""


# Statements that log, by whether operations are kept, and how the records were.
LOGGING = {(operations, was): _log(operations, was) for operations in (False, True) for was in (False, True)}
# Past the revisions that models brought along from elsewhere.
CATCH_UP_REVISIONS = "SELECT max(nextval('bbio_revisions')) FROM generate_series(1, $1::integer)"
# What was told of models at revisions, in their streams or by triggers in the one of all.
FIND_REVISIONS = """
    WITH u AS (SELECT * FROM unnest($2::text[], $3::bigint[]) AS u(name, rev))
    SELECT u.name, u.rev, l.body FROM u
    JOIN bbio_streams s ON s.backend = $1 AND s.name IN (u.name, '*')
    JOIN bbio_log l ON l.stream = s.id AND l.rev = u.rev
    WHERE l.method <> 'delete'
    UNION ALL
    SELECT u.name, u.rev, p.body FROM u
    JOIN bbio_pending p ON p.backend = $1 AND p.stream IN (u.name, '*') AND p.rev = u.rev
    WHERE p.method <> 'delete'
"""
# PostgreSQL drops notifications that all have heard when others follow. Once no place is left for others, it does
# so only when it is asked how many there are.
MAKE_ROOM = "SELECT pg_notification_queue_usage()"
# What was committed is told, many things at once.
TELL_ALL = "SELECT pg_notify(u.channel, u.payload) FROM unnest($1::text[], $2::text[]) AS u(channel, payload)"
TELL = "SELECT pg_notify($1, $2) FROM pg_notification_queue_usage()"
# What processes tell each other, see `bbio_tell_notice`; and the number of the last of it, with what comes after one.
TELL_NOTICE = "SELECT bbio_tell_notice($1, $2, $3, $4)"
NEXT_NOTICES = """
    SELECT t.top, n.id, n.process, n.notice
    FROM (SELECT coalesce(max(id), 0) AS top FROM bbio_notices) t
    LEFT JOIN (SELECT * FROM bbio_notices WHERE id > $1 ORDER BY id LIMIT $2) n ON true ORDER BY n.id"""
# The models that a statement finds, up to and with the first that is one too many for so many bytes. What comes after
# that is not looked for: a limit is worked out first, and what is materialized is made as far as somebody reads.
UP_TO = """
    WITH sized AS MATERIALIZED (
        SELECT *, row_number() OVER w AS number, sum(octet_length(body) + 1) OVER w AS size
        FROM ({0}) AS found(rev, body) WINDOW w AS (ROWS UNBOUNDED PRECEDING)
    )
    SELECT rev, body FROM sized LIMIT (SELECT number FROM sized WHERE size >= ${1}::bigint LIMIT 1)
"""
FIND_STAMP = "SELECT stamp FROM bbio_log WHERE stream = $1 AND position = $2"

# How far bulks have come

FIND_BULK = "SELECT stored, digest, done FROM bbio_bulks WHERE backend = $1 AND name = $2"
# A transaction that has written to the same row is waited for.
BEGIN_BULK = """
    INSERT INTO bbio_bulks (backend, name, stored, digest, at, done) VALUES ($1, $2, $3, $4, $5, false)
    ON CONFLICT DO NOTHING RETURNING true
"""
ADVANCE = """
    UPDATE bbio_bulks SET stored = $3, digest = $4, at = $5
    WHERE backend = $1 AND name = $2 AND stored = $6 AND NOT done RETURNING true
"""
KEEP_BULK = """
    INSERT INTO bbio_bulks (backend, name, stored, digest, at, done) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (backend, name) DO UPDATE SET stored = excluded.stored, digest = excluded.digest, at = excluded.at,
        done = excluded.done
"""
FORGET_BULK = "DELETE FROM bbio_bulks WHERE backend = $1 AND name = $2"
FORGET_BULKS = "DELETE FROM bbio_bulks WHERE done AND at < $1"

# Reads of streams

TOPS = """
    SELECT u.name, coalesce(s.epoch, b.epoch), coalesce(s.top, 0), coalesce(s.stamp, 0),
        EXISTS (SELECT FROM bbio_pending p WHERE p.backend = $1 AND p.stream = u.name)
    FROM bbio_backends b
    CROSS JOIN unnest($2::text[]) AS u(name) LEFT JOIN bbio_streams s ON s.backend = b.id AND s.name = u.name
    WHERE b.id = $1
"""
# Those of all streams, and under the empty name where others begin.
ALL_TOPS = """
    SELECT ''::text, epoch, 0::bigint, 0::bigint FROM bbio_backends WHERE id = $1
    UNION ALL SELECT name, epoch, top, stamp FROM bbio_streams WHERE backend = $1
"""
PENDING = "SELECT DISTINCT stream FROM bbio_pending WHERE backend = $1 LIMIT 1000"
_SINCE = """
    SELECT EXISTS (SELECT FROM bbio_pending p WHERE p.backend = $1 AND p.stream = $2),
        coalesce(s.epoch, b.epoch), coalesce(s.top, 0), coalesce(k.stamp, CASE s.top WHEN $4 THEN s.stamp END),
        l.position, l.method, l.body, l.rev, l.op, l.at, l.stamp{}
    FROM bbio_backends b LEFT JOIN bbio_streams s ON s.backend = b.id AND s.name = $2
    LEFT JOIN bbio_log k ON k.stream = s.id AND k.position = $4
    LEFT JOIN bbio_log l ON l.stream = s.id AND l.position > $4 AND s.epoch = $3{}
    WHERE b.id = $1 ORDER BY l.position
"""
SINCE = _SINCE.format("", "")
# The same with how the records were.
SINCE_WITH_WAS = _SINCE.format(", w.was", " LEFT JOIN bbio_was w ON w.stream = l.stream AND w.position = l.position")

# What the limits no longer allow

CLAIM_TIDYING = "SELECT true FROM bbio_backends WHERE id = $1 FOR UPDATE SKIP LOCKED"
OUTGROWN = """
    SELECT id, top FROM bbio_streams
    WHERE backend = $1 AND (top - trimmed >= $2 OR size > $3::bigint * 5 / 4) ORDER BY name LIMIT 1000 FOR UPDATE
"""
# The position in a stream after which consumers need events; NULL if there are none. They need the last one that they
# have handled: its stamp says that this is the history.
NEEDED = """
    SELECT min(CASE WHEN p.epoch = s.epoch THEN greatest(p.position - 1, 0) ELSE 0 END) FROM bbio_streams s
    JOIN bbio_consumers c ON c.backend = $2
    LEFT JOIN bbio_consumer_positions p ON p.consumer = c.id AND p.stream = s.name
    WHERE s.id = $1 AND (c.channel IS NULL OR p.stream IS NOT NULL)
"""
# What a consumer needs, after $5, has limits of its own, $6 and $7.
TRIM = """
    WITH last AS MATERIALIZED (
        SELECT least(
            greatest($3, coalesce(
                (SELECT position - 1 FROM bbio_log WHERE stream = $1 AND at >= $4 ORDER BY position LIMIT 1), $2
            )),
            CASE WHEN $5::bigint IS NOT NULL THEN greatest($5, $6::bigint, coalesce(
                (SELECT position - 1 FROM bbio_log WHERE stream = $1 AND at >= $7::double precision
                    ORDER BY position LIMIT 1), $2
            )) END
        ) AS position
    ), gone AS (
        DELETE FROM bbio_log WHERE stream = $1 AND position <= (SELECT position FROM last)
        RETURNING octet_length(body) AS length
    ), were AS (
        DELETE FROM bbio_was WHERE stream = $1 AND position <= (SELECT position FROM last)
    )
    UPDATE bbio_streams SET trimmed = $2, size = size - (SELECT coalesce(sum(length), 0) FROM gone)
    WHERE id = $1 RETURNING size
"""
SHRINK = """
    WITH counted AS MATERIALIZED (
        SELECT position, sum(octet_length(body)) OVER (ORDER BY position DESC) AS total FROM bbio_log WHERE stream = $1
    ), last AS MATERIALIZED (
        SELECT least(max(c.position), CASE WHEN $3::bigint IS NOT NULL THEN
            greatest($3, (SELECT max(position) FROM counted WHERE total > $4::bigint)) END
        ) AS position
        FROM counted c WHERE c.total > $2 HAVING count(*) > 0
    ), gone AS (
        DELETE FROM bbio_log WHERE stream = $1 AND position <= (SELECT position FROM last)
        RETURNING octet_length(body) AS length
    ), were AS (
        DELETE FROM bbio_was WHERE stream = $1 AND position <= (SELECT position FROM last)
    )
    UPDATE bbio_streams SET size = size - (SELECT coalesce(sum(length), 0) FROM gone) WHERE id = $1
"""
NEWEST_OPERATION = "SELECT coalesce(max(id), 0) FROM bbio_operations"
FORGET_OPERATIONS = """
    DELETE FROM bbio_operations WHERE id IN (
        SELECT id FROM bbio_operations ORDER BY id LIMIT $1
    ) AND ((at < $2 AND id <= $3) OR id <= $4)
"""
FORGET_STREAMS = """
    WITH late AS (
        SELECT id FROM bbio_streams WHERE backend = $1 ORDER BY at DESC, id DESC OFFSET $2
    ), logs AS (
        DELETE FROM bbio_log WHERE stream IN (SELECT id FROM late)
    ), were AS (
        DELETE FROM bbio_was WHERE stream IN (SELECT id FROM late)
    ), gone AS (
        DELETE FROM bbio_streams WHERE id IN (SELECT id FROM late) RETURNING id
    )
    SELECT count(*) FROM gone
"""

# The table of models

# The number of a backend, and whether the revisions of its models are kept beside its table.
BACKEND = """
    SELECT b.id, EXISTS (SELECT FROM bbio_revs r WHERE r.backend = b.id) FROM bbio_backends b WHERE b.name = $1
"""
# The columns that get their values from PostgreSQL: always, and how where rows hold none, or when nobody sets them; and
# whether bbio made the table.
OWNERS = """
    SELECT a.attname, a.attgenerated <> '' OR a.attidentity = 'a',
        CASE a.attgenerated WHEN 'v' THEN pg_get_expr(d.adbin, d.adrelid) ELSE '' END,
        a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attname = $2 AND c.collname = 'C'
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation c ON c.oid = a.attcollation
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
"""
# What the triggers on a table were made of; an empty text where an earlier version made them, which did not say so.
TRIGGERS = """
    SELECT coalesce(obj_description(oid, 'pg_trigger'), '') FROM pg_trigger
    WHERE tgrelid = to_regclass($1) AND tgname IN ('bbio_tell', 'bbio_insert') ORDER BY tgname DESC LIMIT 1
"""
# The columns that each rule is about.
TABLE_RULES = """
    SELECT r.name, array_agg(a.attname::text ORDER BY u.n) FROM (
        SELECT conname::text, conkey, conrelid FROM pg_constraint
        WHERE conrelid = to_regclass($1) AND contype IN ('c', 'f')
        UNION ALL
        SELECT relname::text, (indkey::int2[])[0:indnkeyatts - 1], indrelid
        FROM pg_index JOIN pg_class ON oid = indexrelid
        WHERE indrelid = to_regclass($1) AND indisunique AND indexprs IS NULL
    ) AS r(name, key, relation), unnest(r.key) WITH ORDINALITY AS u(number, n), pg_attribute a
    WHERE a.attrelid = r.relation AND a.attnum = u.number GROUP BY r.name
"""
SEQUENCE = "SELECT pg_get_serial_sequence($1, $2)"
INDEXES = """
    SELECT relname, format('%I.%I', relnamespace::regnamespace, relname) FROM pg_index JOIN pg_class ON oid = indexrelid
    WHERE indrelid = to_regclass($1) AND relname ~ '^bbio_[0-9a-f]{16}$'
"""
