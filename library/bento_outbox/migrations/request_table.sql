-- What people asked for in the spec of an OutboxTenant, each request id once: it is noted in the transactions that carry
-- it out, so that no crash makes it run again, and the outcome is read from here. Every statement may run again.

-- `filter` is as in the spec when the request was begun. It is over when its events up to `through_seq` are; `after_seq`
-- is the last one that was looked at, `events` counts those that were changed.
CREATE TABLE IF NOT EXISTS outbox_request (
    tenant_id text NOT NULL,
    action text NOT NULL,
    request_id text NOT NULL,
    filter jsonb NOT NULL,
    through_seq bigint NOT NULL,
    after_seq bigint,
    events bigint NOT NULL DEFAULT 0,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at timestamptz,
    PRIMARY KEY (tenant_id, action, request_id)
);
