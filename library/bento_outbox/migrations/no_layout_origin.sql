ALTER TABLE outbox_layout DROP COLUMN IF EXISTS origin;
