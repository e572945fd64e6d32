# Sourced by the runners of pg_regress and of the isolation tests: a private cluster without meshhook
# preloaded, with a key-encryption key, gone again when the runner ends.
#
# Sets PGHOST, PGPORT and PGUSER, and $bindir and $pgxs for the programs of the same installation.

pg_config=${MESHHOOK_PG_CONFIG:-${PG_CONFIG:-pg_config}}
bindir=$("$pg_config" --bindir)
pgxs=$(dirname "$("$pg_config" --pgxs)")/..

# Postgres refuses to run as root; its own account then does it.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        runuser -u postgres -- "$@"
    else
        "$@"
    fi
}

cluster=$(mktemp -d /tmp/meshhook-XXXXXX)

stop_cluster() {
    status=$?
    trap - EXIT
    if [ -f "$cluster/data/postmaster.pid" ]; then
        as_server "$bindir/pg_ctl" -D "$cluster/data" -m immediate -s stop || true
    fi
    rm -rf "$cluster"
    exit "$status"
}
trap stop_cluster EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_cluster() {
    chmod 700 "$cluster"
    printf 'test:%s\n' "$(head -c 32 /dev/urandom | base64)" >"$cluster/kek"
    chmod 600 "$cluster/kek"
    if [ "$(id -u)" -eq 0 ]; then
        chown -R postgres "$cluster"
    fi
    # Loopback is not listened on, so that any free number will do for the socket's name.
    PGPORT=5432
    PGHOST=$cluster
    PGUSER=postgres
    export PGHOST PGPORT PGUSER
    # Another cluster's address, and what makes pgrx add stack traces to errors.
    unset PGDATABASE PGOPTIONS PGSERVICE RUST_BACKTRACE RUST_LIB_BACKTRACE
    (
        cd /
        as_server "$bindir/initdb" --username=postgres --auth=trust --encoding=UTF8 --locale=C \
            --no-sync --pgdata "$cluster/data" >"$cluster/initdb.log"
        cat >>"$cluster/data/postgresql.conf" <<SETTINGS
listen_addresses = ''
port = $PGPORT
unix_socket_directories = '$cluster'
fsync = off
max_worker_processes = 16
meshhook.kek_file = '$cluster/kek'
SETTINGS
        as_server "$bindir/pg_ctl" -D "$cluster/data" -l "$cluster/log" -s -w start
    ) || {
        cat "$cluster/initdb.log" "$cluster/log" >&2 2>/dev/null || true
        exit 1
    }
}
