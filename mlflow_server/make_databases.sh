# PostgreSQL's entrypoint runs this once, when the cluster is new: runs and accounts in databases of
# their own, both of a role that is no superuser. psql reads the password itself: no argument shows it.
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set password `cat /run/secrets/db_mlflow_password`
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE accounts OWNER mlflow;
SQL
