-- What people do about events that failed. Each statement asks for status ERR itself, so that a row which was requeued,
-- sent or discarded meanwhile is left alone. `outbox` stands for the configured table.

-- name: find
-- The ERR rows of a tenant, oldest first; a filter that is NULL holds nothing back. The index (tenant_id, status, seq)
-- gives the tenant's ERR rows in this order, from `after_seq` on; the other filters read each of them.
-- A time beyond the years 1 to 9999 is shown as the infinity on its side: no driver could read it.
SELECT id, seq, aggregate_id, type, retry_cnt,
       CASE WHEN created_at < '0001-01-02Z' THEN '-infinity' WHEN created_at > '9999-12-30Z' THEN 'infinity'
            ELSE created_at END AS created_at,
       CASE WHEN available_at < '0001-01-02Z' THEN '-infinity' WHEN available_at > '9999-12-30Z' THEN 'infinity'
            ELSE available_at END AS failed_at,
       last_error
FROM outbox
WHERE tenant_id = :tenant_id AND status = 'ERR'
      AND seq > coalesce(CAST(:after_seq AS bigint), -9223372036854775808)
      AND seq <= coalesce(CAST(:through_seq AS bigint), 9223372036854775807)
      AND (CAST(:type AS text) IS NULL OR type = CAST(:type AS text))
      AND (CAST(:aggregate_id AS text) IS NULL OR aggregate_id = CAST(:aggregate_id AS text))
      AND (CAST(:error AS text) IS NULL OR strpos(lower(last_error), lower(CAST(:error AS text))) > 0)
      AND (CAST(:since AS timestamptz) IS NULL OR created_at >= CAST(:since AS timestamptz))
      AND (CAST(:until AS timestamptz) IS NULL OR created_at < CAST(:until AS timestamptz))
      AND (CAST(:failed_since AS timestamptz) IS NULL OR available_at >= CAST(:failed_since AS timestamptz))
      AND (CAST(:failed_until AS timestamptz) IS NULL OR available_at < CAST(:failed_until AS timestamptz))
      AND (CAST(:ids AS uuid[]) IS NULL OR id = ANY (CAST(:ids AS uuid[])))
ORDER BY seq
LIMIT CAST(:row_limit AS bigint)

-- name: requeue
-- All attempts again, from now on. The header travels as a property of the message, in UTC, since later events of the
-- aggregate may have been delivered before. last_error stays until the event is sent: it says why it was requeued.
UPDATE outbox
SET status = 'NEW', retry_cnt = 0, available_at = clock_timestamp(),
    headers = CASE WHEN jsonb_typeof(headers) = 'object'
                   THEN headers || jsonb_build_object(
                            CAST(:header AS text), (to_jsonb(clock_timestamp() AT TIME ZONE 'UTC') #>> '{}') || '+00:00')
                   ELSE headers END
WHERE tenant_id = :tenant_id AND status = 'ERR' AND id = ANY (CAST(:ids AS uuid[]))

-- name: discard
-- Gone, never delivered.
DELETE FROM outbox
WHERE tenant_id = :tenant_id AND status = 'ERR' AND id = ANY (CAST(:ids AS uuid[]))

-- name: wake
-- The projector looks at once, when the transaction ends: at what was requeued, or at what waited behind it. Requests of people are rare, so the lock of the whole cluster
-- that a NOTIFY takes at commit holds nobody up.
SELECT pg_notify(:channel, '')
