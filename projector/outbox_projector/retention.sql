-- What is deleted when it is old enough. `outbox` stands for the configured table.

-- name: turn
-- Whether it is ours to delete this tenant's rows: no other pod is at it just now. The lock ends with the transaction, as
-- pgbouncer demands. From here on an index is read in its order, and so no more of it than the batch. By a bitmap or a
-- scan of the table all that is old would be read, each time, whenever the plan was made while there was little.
SELECT pg_try_advisory_xact_lock(hashtextextended('bento_outbox retention ' || CAST(:tenant_id AS text), 0)) AS ours,
       set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)

-- name: delete_sent
-- The batch that was sent longest ago; of rows without a time, written by older versions, their creation counts. The
-- index outbox_sent has them in this order.
DELETE FROM outbox
WHERE status = 'SENT' AND id = ANY (ARRAY(
    SELECT id FROM outbox
    WHERE tenant_id = :tenant_id AND status = 'SENT'
          AND coalesce(sent_at, created_at) < statement_timestamp() - make_interval(secs => :keep_seconds)
    ORDER BY coalesce(sent_at, created_at)
    LIMIT :batch_size
))

-- name: delete_err
-- A batch of those that failed long enough ago; of an ERR row `available_at` tells when. A row that was requeued
-- meanwhile stays. Each ERR row of the tenant is looked at: there are not many, or somebody has been told.
DELETE FROM outbox
WHERE status = 'ERR' AND id = ANY (ARRAY(
    SELECT id FROM outbox
    WHERE tenant_id = :tenant_id AND status = 'ERR'
          AND available_at < statement_timestamp() - make_interval(secs => :keep_seconds)
    ORDER BY seq
    LIMIT :batch_size
))
