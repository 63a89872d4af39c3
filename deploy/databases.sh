#!/bin/sh
# Run once by PostgreSQL's image, on an empty data folder: a role and databases for Leasehold, and for Temporal.
# Neither role can read the other's; what `deliver` hooks print is in Leasehold's.
set -eu
SECRETS=${SECRETS:-/run/secrets} psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set leasehold `cat "$SECRETS/leasehold_password"`
\set temporal `cat "$SECRETS/temporal_password"`
CREATE ROLE leasehold LOGIN PASSWORD :'leasehold';
CREATE ROLE temporal LOGIN PASSWORD :'temporal';
CREATE DATABASE leasehold OWNER leasehold;
CREATE DATABASE leasehold_logs OWNER leasehold;
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
REVOKE CONNECT ON DATABASE leasehold, leasehold_logs, temporal, temporal_visibility FROM PUBLIC;
SQL
