-- Which role acts for which tenant, or for all. Only the owner of the table writes here: no policy lets anybody else,
-- not even a role that some default privilege allows to. Every statement may run again.
CREATE TABLE IF NOT EXISTS outbox_tenant_role (
    role_name name PRIMARY KEY,
    tenant_id text,
    all_tenants boolean NOT NULL DEFAULT false,
    CHECK (all_tenants = (tenant_id IS NULL))
);
ALTER TABLE outbox_tenant_role ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_line ON outbox_tenant_role;
CREATE POLICY own_line ON outbox_tenant_role FOR SELECT USING (role_name = current_user);
GRANT SELECT ON outbox_tenant_role TO PUBLIC;
