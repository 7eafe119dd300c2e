-- The statements of a lane's owner. `outbox` and the tables whose names begin with it stand for the configured ones.
-- A time beyond the years 1 to 9999, which a writer may have given, is none: the driver could not read the row.

-- name: hold
-- Still ours, from now on for a whole lease, and nobody else's before this transaction ends. No row: taken over. From here
-- on an index is read in its order, and so little more of it than a batch. By a bitmap or a scan of the table the claim
-- would read and sort the whole backlog for each batch, whenever its plan was made while there was none.
UPDATE outbox_lane
SET lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
WHERE tenant_id = :tenant_id AND lane = :lane AND epoch = :epoch
RETURNING epoch, set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)

-- name: open_flights
-- What was claimed and not settled, in the order of claiming; of rows that somebody has deleted `id` is NULL.
SELECT outbox.id, outbox.tenant_id, outbox.aggregate_id, outbox.type, outbox.schema_id, outbox.schema_ver,
       outbox.payload::text AS payload, outbox.headers::text AS headers, outbox.ordering_key, outbox.topic,
       CASE WHEN NOT isfinite(outbox.created_at) OR outbox.created_at BETWEEN '0001-01-02Z' AND '9999-12-30Z'
            THEN outbox.created_at END AS created_at,
       coalesce(outbox.retry_cnt, 0) AS retry_cnt,
       flight.number, flight.topic AS flight_topic, flight.first_sequence, flight.by_key
FROM (SELECT number, topic, first_sequence, ids, by_key
      FROM outbox_flight WHERE tenant_id = :tenant_id AND lane = :lane) AS flight,
     unnest(flight.ids) WITH ORDINALITY AS member (id, place)
     LEFT JOIN LATERAL (SELECT * FROM outbox WHERE outbox.id = member.id) AS outbox ON true
ORDER BY flight.number, member.place

-- name: look
-- The first row of all that waits from there on, be it in a flight or held for later; and which transactions are open.
SELECT min(seq) AS lowest,
       CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest_open,
       CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_id
FROM outbox WHERE tenant_id = :tenant_id AND status = 'NEW' AND seq >= :begin

-- name: candidates
-- The lane's oldest rows that may go now, with those among them that somebody holds. Where order is kept, a row that waits
-- for another attempt holds back the later ones of its key, and so does one in ERR where that is wanted.
-- A thousand large payloads would be more than a process can hold, so it reads no more of them than fit into a flight, at
-- least one, by their size as it is stored (`bytes_through`: of all up to this one), which counts fourfold where it is
-- compressed. `more`: whether another one follows.
-- `statement_timestamp` is one moment for all comparisons. Within one statement a row's place in the table is as good as
-- its key, and finds it without an index: a third of the whole.
-- The planner goes by statistics, and those may be of a night in which nothing waited: then it takes whatever is read by the
-- index of what waits for next to nothing, and loops over it. So what is joined is looked up in subqueries, which are
-- hashed, and within coalesce a condition is none that the index could serve.
WITH waiting AS MATERIALIZED (
    SELECT coalesce(ordering_key, aggregate_id) AS key, min(seq) AS seq
    FROM outbox
    WHERE tenant_id = :tenant_id AND status = 'NEW' AND retry_cnt > 0 AND available_at > statement_timestamp() AND :ordered
    GROUP BY 1
), due AS (
    SELECT id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload, headers, ordering_key, topic, created_at,
           retry_cnt, seq, outbox.ctid AS place,
           row_number() OVER flight = 1 AS is_first,
           sum(coalesce(pg_column_size(payload), 0) * CASE WHEN pg_column_compression(payload) IS NULL THEN 1 ELSE 4 END
               + coalesce(pg_column_size(headers), 0) * CASE WHEN pg_column_compression(headers) IS NULL THEN 1 ELSE 4 END
               + :other_bytes) OVER flight AS bytes_through,
           lead(seq) OVER flight IS NOT NULL AS more
    FROM outbox
    WHERE tenant_id = :tenant_id AND status = 'NEW' AND seq >= :low_water AND available_at <= statement_timestamp()
          -- Within coalesce the planner does not take the comparison for a rare one, and reads the index in order.
          AND (CAST(:lanes AS int) = 1
               OR coalesce((hashtext(coalesce(ordering_key, aggregate_id, '')) & 2147483647) % CAST(:lanes AS int)
                           = CAST(:lane AS int), false))
          AND id NOT IN (SELECT unnest(ids) FROM outbox_flight WHERE tenant_id = :tenant_id AND lane = :lane)
          AND (coalesce(outbox.ordering_key, outbox.aggregate_id) NOT IN (SELECT key FROM waiting)
               OR NOT EXISTS (SELECT FROM waiting
                              WHERE waiting.key = coalesce(outbox.ordering_key, outbox.aggregate_id)
                                    AND waiting.seq < outbox.seq))
          AND NOT (:hold_aggregates AND EXISTS (
              SELECT FROM outbox AS failed
              WHERE failed.tenant_id = :tenant_id AND failed.status = 'ERR'
                    AND hashtextextended(coalesce(failed.ordering_key, failed.aggregate_id), 0)
                        = hashtextextended(coalesce(outbox.ordering_key, outbox.aggregate_id), 0)
                    AND coalesce(failed.ordering_key, failed.aggregate_id) = coalesce(outbox.ordering_key, outbox.aggregate_id)
                    AND failed.seq < outbox.seq))
    WINDOW flight AS (ORDER BY seq ROWS UNBOUNDED PRECEDING)
    ORDER BY seq
    LIMIT :limit
), candidate AS MATERIALIZED (
    SELECT id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload::text AS payload, headers::text AS headers,
           ordering_key, topic,
           CASE WHEN NOT isfinite(created_at) OR created_at BETWEEN '0001-01-02Z' AND '9999-12-30Z'
                THEN created_at END AS created_at,
           coalesce(retry_cnt, 0) AS retry_cnt, seq, place, more
    FROM due
    WHERE is_first OR bytes_through <= :most_bytes
), locked AS MATERIALIZED (
    SELECT id FROM outbox
    WHERE outbox.ctid = ANY (ARRAY(SELECT place FROM candidate)) AND coalesce(status, '') = 'NEW'
    FOR UPDATE SKIP LOCKED
)
SELECT id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload, headers, ordering_key, topic, created_at, retry_cnt,
       more, id IN (SELECT id FROM locked) AS is_locked
FROM candidate
ORDER BY seq

-- name: take_off
-- A flight, and the next sequence id after it; never below the floor that the broker told.
WITH stream AS (
    INSERT INTO outbox_stream (tenant_id, lane, topic, next_sequence)
    VALUES (:tenant_id, :lane, :topic, CAST(:floor AS bigint) + cardinality(CAST(:ids AS uuid[])))
    ON CONFLICT (tenant_id, lane, topic) DO UPDATE
    SET next_sequence = greatest(outbox_stream.next_sequence, CAST(:floor AS bigint)) + cardinality(CAST(:ids AS uuid[]))
    RETURNING next_sequence
)
INSERT INTO outbox_flight (tenant_id, lane, topic, first_sequence, ids, by_key)
SELECT :tenant_id, :lane, :topic, next_sequence - cardinality(CAST(:ids AS uuid[])), CAST(:ids AS uuid[]), :by_key
FROM stream
RETURNING first_sequence

-- name: mark_sent
-- Flights that are over, by topic and first sequence id; and the rows that the broker has. All of them at one time: equal
-- entries of the index outbox_sent are stored as one.
WITH landed AS (
    DELETE FROM outbox_flight
    USING unnest(CAST(:topics AS text[]), CAST(:first_sequences AS bigint[])) AS over (topic, first_sequence)
    WHERE outbox_flight.tenant_id = :tenant_id AND outbox_flight.lane = :lane
          AND outbox_flight.topic = over.topic AND outbox_flight.first_sequence = over.first_sequence
)
UPDATE outbox
SET status = 'SENT', sent_at = statement_timestamp(), last_error = NULL
WHERE id = ANY (CAST(:sent AS uuid[]))

-- name: delete_sent
-- The same where nothing is kept: half the writing, and no vacuum of what would be deleted later anyway. One statement for
-- both would need the right to delete also where rows are marked.
WITH landed AS (
    DELETE FROM outbox_flight
    USING unnest(CAST(:topics AS text[]), CAST(:first_sequences AS bigint[])) AS over (topic, first_sequence)
    WHERE outbox_flight.tenant_id = :tenant_id AND outbox_flight.lane = :lane
          AND outbox_flight.topic = over.topic AND outbox_flight.first_sequence = over.first_sequence
)
DELETE FROM outbox
WHERE id = ANY (CAST(:sent AS uuid[]))
