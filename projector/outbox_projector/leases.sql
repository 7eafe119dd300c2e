-- Who owns which lane. Every statement is about one tenant. Only the clock of the database counts.

-- name: beat
-- We are here and want so many lanes; and what there is: the members, from the oldest to the youngest, whose wish counts;
-- lanes that others own; lanes whose owner let the lease run out; lanes with flights that have not landed;
-- whether any event waits. A member that has not beaten for a while is not counted.
WITH me AS (
    INSERT INTO outbox_member (tenant_id, name, wanted, beat_at)
    VALUES (:tenant_id, :name, :wanted, clock_timestamp())
    ON CONFLICT (tenant_id, name) DO UPDATE SET wanted = excluded.wanted, beat_at = excluded.beat_at
    RETURNING number, wanted
), first_layout AS (
    INSERT INTO outbox_layout (tenant_id, lanes) VALUES (:tenant_id, :wanted)
    ON CONFLICT (tenant_id) DO NOTHING
    RETURNING lanes
), member AS (
    SELECT number, wanted FROM outbox_member
    WHERE tenant_id = :tenant_id AND name <> :name
          AND beat_at > clock_timestamp() - make_interval(secs => :member_seconds)
    UNION ALL
    SELECT number, wanted FROM me
)
SELECT coalesce((SELECT lanes FROM first_layout), (SELECT lanes FROM outbox_layout WHERE tenant_id = :tenant_id)) AS lanes,
       (SELECT wanted FROM member ORDER BY number DESC LIMIT 1) AS wanted,
       (SELECT count(*) FROM member) AS members,
       (SELECT count(*) FROM member WHERE number < (SELECT number FROM me)) AS rank,
       ARRAY(SELECT lane FROM outbox_lane
             WHERE tenant_id = :tenant_id AND owner <> :name AND lease_until >= clock_timestamp()) AS taken,
       ARRAY(SELECT lane FROM outbox_lane
             WHERE tenant_id = :tenant_id AND owner <> :name AND lease_until < clock_timestamp()) AS expired,
       ARRAY(SELECT DISTINCT lane FROM outbox_flight WHERE tenant_id = :tenant_id) AS flying,
       EXISTS (SELECT FROM outbox WHERE tenant_id = :tenant_id AND status = 'NEW') AS waiting

-- name: tell
-- That we have come. In a transaction of its own, since NOTIFY takes a lock of the whole cluster at commit.
SELECT pg_notify(:channel, '')

-- name: leave
-- Gone, and so are those of whom nothing was heard for an hour.
DELETE FROM outbox_member
WHERE tenant_id = :tenant_id AND (name = :name OR beat_at < clock_timestamp() - interval '1 hour')

-- name: acquire
-- The lane, if nobody else holds it: a new epoch, by which the writes of former owners are told from ours. By the clock, in
-- microseconds, so that no epoch comes again when a failover undoes what was committed last. How many lanes there are cannot
-- change meanwhile, nor while the lane has this epoch.
WITH layout AS MATERIALIZED (
    SELECT lanes, origin FROM outbox_layout WHERE tenant_id = :tenant_id FOR SHARE
)
INSERT INTO outbox_lane (tenant_id, lane, owner, epoch, lease_until)
SELECT :tenant_id, CAST(:lane AS int), :name, extract(epoch FROM clock_timestamp()) * 1000000,
       clock_timestamp() + make_interval(secs => :lease_seconds)
FROM layout WHERE :lane < lanes
ON CONFLICT (tenant_id, lane) DO UPDATE
SET owner = excluded.owner, epoch = greatest(excluded.epoch, outbox_lane.epoch + 1), lease_until = excluded.lease_until
WHERE outbox_lane.owner IS NULL OR outbox_lane.owner = excluded.owner OR outbox_lane.lease_until < clock_timestamp()
RETURNING epoch, (SELECT lanes FROM layout) AS lanes, (SELECT origin FROM layout) AS origin

-- name: release
-- Given back, if it is still ours.
UPDATE outbox_lane
SET owner = NULL, lease_until = NULL
WHERE tenant_id = :tenant_id AND lane = :lane AND epoch = :epoch
RETURNING epoch

-- name: close_layout
-- Nobody acquires a lane before this transaction ends.
SELECT lanes FROM outbox_layout WHERE tenant_id = :tenant_id FOR UPDATE

-- name: revoke
-- Waits for the turns that are under way; no owner begins another one.
UPDATE outbox_lane SET epoch = epoch + 1, owner = NULL, lease_until = NULL WHERE tenant_id = :tenant_id

-- name: change_layout
-- Another number of lanes, if every flight has landed: from now on a key may belong to another lane.
UPDATE outbox_layout SET lanes = :lanes
WHERE tenant_id = :tenant_id AND NOT EXISTS (SELECT FROM outbox_flight WHERE tenant_id = :tenant_id)
RETURNING lanes
