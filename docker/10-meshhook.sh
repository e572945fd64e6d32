#!/bin/bash
# Run once by the image's entrypoint, when the cluster is new: makes the key-encryption key, creates the extension in
# POSTGRES_DB, and the sidecar's login role if MESHHOOK_SIDECAR_PASSWORD is set.
set -eu

kek=/etc/meshhook/kek
if [ ! -s "$kek" ]; then
    (
        umask 077
        printf '%s:%s\n' "$(date +%Y%m%d)" "$(head -c 32 /dev/urandom | base64)" >"$kek"
    )
    echo "meshhook: a new key-encryption key is in $kek: back it up apart from the database"
fi

psql -v ON_ERROR_STOP=1 --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" \
    -v password="${MESHHOOK_SIDECAR_PASSWORD:-}" <<'SQL'
CREATE EXTENSION meshhook;
SELECT :'password' <> '' AS with_sidecar \gset
\if :with_sidecar
    CREATE ROLE sidecar LOGIN PASSWORD :'password' IN ROLE meshhook_executor;
\endif
SQL
