-- What the projector keeps besides the rows: who owns a lane, which sequence id comes next, and what is being published.
-- Every statement may run again.

-- How many lanes a tenant has. Changed when nobody owns one and every flight has landed.
CREATE TABLE IF NOT EXISTS outbox_layout (
    tenant_id text PRIMARY KEY,
    lanes int NOT NULL
);

-- The processes that share a tenant's lanes, numbered in the order in which they came.
CREATE TABLE IF NOT EXISTS outbox_member (
    tenant_id text NOT NULL,
    name text NOT NULL,
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    wanted int NOT NULL,
    beat_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name)
) WITH (fillfactor = 50);

-- One row a lane, made by its first owner. `epoch` rises with each owner; every write of an owner states it.
CREATE TABLE IF NOT EXISTS outbox_lane (
    tenant_id text NOT NULL,
    lane int NOT NULL,
    owner text,
    epoch bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    PRIMARY KEY (tenant_id, lane)
) WITH (fillfactor = 50);

-- The sequence id of the next event of a lane on a topic: the broker deduplicates by it.
CREATE TABLE IF NOT EXISTS outbox_stream (
    tenant_id text NOT NULL,
    lane int NOT NULL,
    topic text NOT NULL,
    next_sequence bigint NOT NULL,
    PRIMARY KEY (tenant_id, lane, topic)
) WITH (fillfactor = 50);

-- A batch that is being published: the ids of its rows, in order, and whether each key is a batch of its own. Gone when
-- they are settled.
CREATE TABLE IF NOT EXISTS outbox_flight (
    tenant_id text NOT NULL,
    lane int NOT NULL,
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    topic text NOT NULL,
    first_sequence bigint NOT NULL,
    ids uuid[] NOT NULL,
    by_key boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, lane, number)
);

-- Ids are random: trying to compress them only costs.
ALTER TABLE outbox_flight ALTER COLUMN ids SET STORAGE EXTERNAL;

-- Serves the claim: rows that wait for another attempt, which hold back later rows of their aggregate. Only rows that
-- were refused are in it.
CREATE INDEX IF NOT EXISTS outbox_retry ON outbox (tenant_id, available_at) WHERE status = 'NEW' AND retry_cnt > 0;
