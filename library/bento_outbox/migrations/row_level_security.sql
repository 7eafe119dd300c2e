-- Row-level security: a role sees and writes the rows of its own tenant, whatever its statements say. An option.
-- Not bound by it: superusers, roles with BYPASSRLS, and the owner of the table. Every statement may run again, after
-- those of tenant_role_table.sql. They run for the outbox, and for each table that the projector keeps beside it.

-- Both subqueries depend on no row, so they run once a statement, and the index on tenant_id stays of use.
DROP POLICY IF EXISTS own_tenant ON outbox;
CREATE POLICY own_tenant ON outbox
    USING (
        tenant_id = (SELECT bound.tenant_id FROM outbox_tenant_role AS bound WHERE bound.role_name = current_user)
        OR (SELECT bound.all_tenants FROM outbox_tenant_role AS bound WHERE bound.role_name = current_user)
    );
ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;
