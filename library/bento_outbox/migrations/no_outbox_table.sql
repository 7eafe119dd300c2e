-- The way back: no outbox table, and the events in it are gone.

DROP TABLE outbox;
DROP TABLE IF EXISTS outbox_tenant_role;
