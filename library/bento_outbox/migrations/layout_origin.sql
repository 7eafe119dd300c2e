-- A part of the names under which the lanes publish, so that the broker does not take the events of one database for
-- those of another that publishes to the same topic. Empty where the lanes had their names before there was one.
ALTER TABLE outbox_layout ADD COLUMN IF NOT EXISTS origin text NOT NULL DEFAULT '';
ALTER TABLE outbox_layout ALTER COLUMN origin SET DEFAULT CAST(gen_random_uuid() AS text);
