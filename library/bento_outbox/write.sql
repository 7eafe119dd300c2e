-- Statements of the write side. `outbox` stands for the configured table.

-- name: write
-- All events of a transaction at once, in the order of their registration; an event whose id is there is left as it is,
-- and its id is not returned.
INSERT INTO outbox (id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload, headers, ordering_key, topic,
                    available_at)
SELECT id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload::jsonb, headers::jsonb, ordering_key, topic,
       clock_timestamp() + make_interval(secs => hold_seconds)
FROM unnest(CAST(:id AS uuid[]), CAST(:tenant_id AS text[]), CAST(:aggregate_id AS text[]), CAST(:type AS text[]),
            CAST(:schema_id AS text[]), CAST(:schema_ver AS int[]), CAST(:payload AS text[]), CAST(:headers AS text[]),
            CAST(:ordering_key AS text[]), CAST(:topic AS text[]), CAST(:hold_seconds AS float8[]))
     WITH ORDINALITY
     AS event (id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload, headers, ordering_key, topic,
               hold_seconds, position)
ORDER BY position
ON CONFLICT (id) DO NOTHING
RETURNING id

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
