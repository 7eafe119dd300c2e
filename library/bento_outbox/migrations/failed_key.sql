-- Serves the claim where a failed event holds back the later ones of its key. Only failed rows are in it. By the key's hash,
-- since a key may be longer than an entry of an index: then its row could not become ERR, and would stop the projector.
DO $do$ BEGIN
    IF to_regclass($name$outbox_failed$name$) IS NOT NULL THEN DROP INDEX outbox_failed; END IF; END $do$;
CREATE INDEX IF NOT EXISTS outbox_failed_key
    ON outbox (tenant_id, (hashtextextended(coalesce(ordering_key, aggregate_id), 0)), seq) WHERE status = 'ERR';
