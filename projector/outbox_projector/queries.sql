-- How rows are refused and measured. `outbox` stands for the configured table; the primary key serves the first, the index
-- (tenant_id, status, seq) the others.

-- name: mark_refused
-- The bus does not take these: another attempt later, or ERR when there is none left. Of an ERR row `available_at` tells
-- when it failed.
UPDATE outbox
SET retry_cnt = coalesce(outbox.retry_cnt, 0) + 1,
    last_error = refused.reason,
    status = CASE WHEN refused.permanent OR coalesce(outbox.retry_cnt, 0) + 1 >= :max_retries THEN 'ERR' ELSE 'NEW' END,
    available_at = clock_timestamp() + CASE
        WHEN refused.permanent OR coalesce(outbox.retry_cnt, 0) + 1 >= :max_retries THEN interval '0'
        ELSE make_interval(secs => refused.wait_seconds) END
FROM unnest(CAST(:ids AS uuid[]), CAST(:reasons AS text[]), CAST(:permanent AS bool[]), CAST(:waits AS float8[]))
     AS refused (id, reason, permanent, wait_seconds)
WHERE outbox.id = refused.id
RETURNING outbox.status

-- name: look
-- The oldest row that waits, and how many failed: all that an idle tenant's reports cost. Each part reads its own stretch
-- of one index, the first of them a single entry; to be run outside a transaction, so that it is one round trip.
SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE tenant_id = :tenant_id AND status = 'ERR'
                              LIMIT :count_limit) AS e) AS errors,
       oldest.seq AS oldest_seq,
       greatest(0, extract(epoch FROM clock_timestamp() - oldest.created_at)) AS oldest_seconds
FROM (SELECT) AS one
LEFT JOIN LATERAL (SELECT seq, created_at FROM outbox
                   WHERE tenant_id = :tenant_id AND status = 'NEW' ORDER BY seq LIMIT 1) AS oldest ON true

-- name: in_order
-- For the rest of the transaction an index is read in its order, and so no further than the limit. By a bitmap or a scan
-- of the table a backlog of millions would be read as a whole, whenever the plan was made while there was none.
SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('jit', 'off', true)

-- name: count_pending
-- What waits, counted from the oldest on and to a limit, from the index alone where the table was vacuumed.
SELECT count(*)
FROM (SELECT FROM outbox WHERE tenant_id = :tenant_id AND status = 'NEW' AND seq >= :oldest_seq
      ORDER BY seq LIMIT :count_limit) AS waiting
