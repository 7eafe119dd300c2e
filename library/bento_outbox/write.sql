-- Statements of the write side. `outbox` stands for the configured table.

-- name: write
-- All events of a transaction at once, in the order of their registration, as one JSON text: the driver would check and
-- encode each element of eleven arrays. An event whose id is there is left as it is, and its id is returned.
WITH event AS MATERIALIZED (
    SELECT *
    FROM ROWS FROM (
        json_to_recordset(CAST(:events AS text)::json) AS (
            id uuid, tenant_id text, aggregate_id text, type text, schema_id text, schema_ver int, payload jsonb,
            headers jsonb, ordering_key text, topic text, hold_seconds float8
        )
    ) WITH ORDINALITY
), written AS (
    INSERT INTO outbox (id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload, headers, ordering_key, topic,
                        available_at)
    SELECT id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload, headers, ordering_key, topic,
           clock_timestamp() + make_interval(secs => hold_seconds)
    FROM event
    ORDER BY ordinality
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
SELECT id FROM event
EXCEPT
SELECT id FROM written

-- name: owners
-- Which events have these ids.
SELECT id, tenant_id, type, aggregate_id FROM outbox WHERE id = ANY (CAST(:ids AS uuid[]))

-- name: mark_sent
-- Published directly; a row that the projector has taken meanwhile is left to it.
UPDATE outbox
SET status = 'SENT', sent_at = clock_timestamp()
WHERE id = ANY (CAST(:ids AS uuid[])) AND status = 'NEW'

-- name: release
-- Not published directly: the projector may have them at once.
UPDATE outbox
SET available_at = clock_timestamp()
WHERE id = ANY (CAST(:ids AS uuid[])) AND status = 'NEW'
