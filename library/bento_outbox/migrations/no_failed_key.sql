DROP INDEX IF EXISTS outbox_failed_key;
CREATE INDEX IF NOT EXISTS outbox_failed ON outbox (tenant_id, (coalesce(ordering_key, aggregate_id)), seq)
    WHERE status = 'ERR';
