-- Serves the claim where a failed event holds back the later ones of its key. Only failed rows are in it. By the key's hash,
-- since a key may be longer than an entry of an index: then its row could not become ERR, and would stop the projector.
CREATE INDEX IF NOT EXISTS outbox_failed_key
    ON outbox (tenant_id, (hashtextextended(coalesce(ordering_key, aggregate_id), 0)), seq) WHERE status = 'ERR';
DO $do$ BEGIN
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($name$outbox_failed$name$)
                                          AND indrelid = to_regclass($name$outbox$name$)) THEN
        DROP INDEX outbox_failed; END IF; END $do$;
