-- What is deleted when it is old enough. `outbox` stands for the configured table.

-- name: delete_old
-- The oldest rows of a status, up to a batch, if no other pod is deleting this tenant's rows just now: the lock ends with
-- the transaction, as pgbouncer demands. The index (tenant_id, status, seq) gives them in the order of insertion, and at
-- most a batch of them is read: rows behind one that is too young are left to a later turn.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended('bento_outbox retention ' || CAST(:tenant_id AS text), 0)) AS ours
), oldest AS MATERIALIZED (
    SELECT id, coalesce(sent_at, created_at) AS since
    FROM outbox
    WHERE tenant_id = :tenant_id AND status = :status AND (SELECT ours FROM turn)
    ORDER BY seq
    LIMIT :batch_size
)
DELETE FROM outbox
WHERE tenant_id = :tenant_id AND status = :status
      AND id IN (SELECT id FROM oldest WHERE since < clock_timestamp() - make_interval(secs => :keep_seconds))
