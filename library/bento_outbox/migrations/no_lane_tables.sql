-- The way back. Stop the projectors before: what they are publishing is forgotten, and published again.

DROP TABLE IF EXISTS outbox_request;
DROP TABLE IF EXISTS outbox_flight;
DROP TABLE IF EXISTS outbox_stream;
DROP TABLE IF EXISTS outbox_lane;
DROP TABLE IF EXISTS outbox_member;
DROP TABLE IF EXISTS outbox_layout;
