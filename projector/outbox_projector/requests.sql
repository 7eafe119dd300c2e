-- The requests of an OutboxTenant, noted where they are carried out. `outbox` and `outbox_request` stand for the
-- configured tables.

-- name: begin
-- Notes a request, once. It ends with the last event that has failed by now, so that it does end.
INSERT INTO outbox_request (tenant_id, action, request_id, filter, through_seq)
VALUES (:tenant_id, :action, :request_id, CAST(:filter AS jsonb),
        coalesce((SELECT seq FROM outbox WHERE tenant_id = :tenant_id AND status = 'ERR' ORDER BY seq DESC LIMIT 1),
                 -9223372036854775808))
ON CONFLICT (tenant_id, action, request_id) DO NOTHING

-- name: hold
-- How far it is, held until the transaction ends. No row: another pod is at it. From here on an index is read in its order,
-- and so no more of it than the batch, even with a plan that was made while nothing had failed.
SELECT filter::text AS filter, begun_at, through_seq, after_seq, events, completed_at,
       set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)
FROM outbox_request
WHERE tenant_id = :tenant_id AND action = :action AND request_id = :request_id
FOR UPDATE SKIP LOCKED

-- name: advance
-- A batch further, in the transaction of the batch.
UPDATE outbox_request
SET after_seq = :after_seq, events = events + :changed,
    completed_at = CASE WHEN CAST(:over AS bool) THEN clock_timestamp() END
WHERE tenant_id = :tenant_id AND action = :action AND request_id = :request_id
RETURNING events, completed_at
