-- Which role of the database acts for which tenant. `outbox_tenant_role` stands for that of the configured table. GRANT
-- and REVOKE take no parameters, so those are made in tenant_roles.py.

-- name: look
-- The outbox table, its schema and owner, and whether there is a table of bindings. No row if there is no outbox.
SELECT relnamespace::regnamespace::text AS quoted_schema, pg_get_userbyid(relowner) AS owner,
       to_regclass(:roles_table) IS NOT NULL AS has_bindings
FROM pg_class
WHERE oid = to_regclass(:table)

-- name: lacks_schema
-- Whether the role cannot even name the table.
SELECT NOT has_schema_privilege(:role, relnamespace, 'USAGE') FROM pg_class WHERE oid = to_regclass(:table)

-- name: beyond
-- A role that row-level security does not hold, and that this role is or may become; the role itself before others.
SELECT other.rolname
FROM pg_roles AS role, pg_roles AS other
WHERE role.rolname = :role AND pg_has_role(role.oid, other.oid, 'MEMBER')
      AND (other.rolsuper OR other.rolbypassrls
           OR other.oid = (SELECT relowner FROM pg_class WHERE oid = to_regclass(:table)))
ORDER BY other.oid <> role.oid
LIMIT 1

-- name: other_tenants
-- A role that is bound to something else, and that this role may become.
SELECT bound.role_name
FROM outbox_tenant_role AS bound
JOIN pg_roles AS other ON other.rolname = bound.role_name
WHERE other.rolname <> :role AND pg_has_role(:role, other.oid, 'MEMBER') AND bound.tenant_id IS DISTINCT FROM :tenant_id
LIMIT 1

-- name: unprotected
-- Whether the role, by itself or through another, still has a privilege that row-level security does not limit.
SELECT bool_or(has_table_privilege(:role, to_regclass(named), privilege))
FROM unnest(ARRAY['TRUNCATE', 'TRIGGER', 'REFERENCES']) AS privilege,
     unnest(CAST(:tables AS text[])) AS named

-- name: bind
-- One line a role: the last word holds.
INSERT INTO outbox_tenant_role (role_name, tenant_id, all_tenants)
VALUES (:role, :tenant_id, :all_tenants)
ON CONFLICT (role_name) DO UPDATE SET tenant_id = excluded.tenant_id, all_tenants = excluded.all_tenants

-- name: unbind
-- The role sees nothing any more.
DELETE FROM outbox_tenant_role WHERE role_name = :role RETURNING role_name

-- name: list
-- All bindings, with what the role may do now; a role that was dropped may do nothing.
SELECT bound.role_name, bound.tenant_id, role.oid IS NOT NULL AS "exists",
       coalesce(has_table_privilege(role.oid, to_regclass(:table), 'INSERT'), false) AS writes,
       coalesce(has_column_privilege(role.oid, to_regclass(:table), 'status', 'UPDATE'), false) AS settles,
       coalesce(has_table_privilege(role.oid, to_regclass(:lane_table), 'UPDATE'), false) AS owns_lanes
FROM outbox_tenant_role AS bound
LEFT JOIN pg_roles AS role ON role.rolname = bound.role_name
ORDER BY bound.role_name
