-- Every statement of the projector. `outbox` stands for the configured table; the index (tenant_id, status, seq)
-- serves all of them.

-- name: mark_sent
-- The broker has acknowledged these. All of them at one time: equal entries of the index outbox_sent are stored as one.
UPDATE outbox
SET status = 'SENT', sent_at = statement_timestamp(), last_error = NULL
WHERE id = ANY (CAST(:ids AS uuid[]))

-- name: delete_sent
-- The same where nothing is kept: half the writing, and no vacuum of what would be deleted later anyway.
DELETE FROM outbox
WHERE id = ANY (CAST(:ids AS uuid[]))

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

-- name: measure
-- What waits and what failed, counted to a limit, so that a huge backlog costs a bounded scan.
SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE tenant_id = :tenant_id AND status = 'NEW' LIMIT :count_limit) AS n)
           AS pending,
       (SELECT count(*) FROM (SELECT FROM outbox WHERE tenant_id = :tenant_id AND status = 'ERR' LIMIT :count_limit) AS e)
           AS errors,
       (SELECT greatest(0, extract(epoch FROM clock_timestamp() - created_at))
        FROM outbox WHERE tenant_id = :tenant_id AND status = 'NEW' ORDER BY seq LIMIT 1)
           AS oldest_seconds
