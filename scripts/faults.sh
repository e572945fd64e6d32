#!/usr/bin/env bash
# Lets things fail (tests/faults) in an extension that is built with the feature `faults`. It lies in a copy of the
# PostgreSQL that PG_CONFIG names, for as long as this runs: the release that is installed there stays as it is. The
# sidecar is that of `make build`.
#
#   faults.sh quick          what `make test` does: each crash point under one workflow, the planted bugs, a minute of
#                            random workflows
#   faults.sh long           all of it, MINUTES= of random workflows
#   faults.sh PART ARGS…     one part: sweep, judge or recovery
#
# SEED= chooses what is left to chance.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

SEED=${SEED:-1}
MINUTES=${MINUTES:-30}

# The server finds its folders by their places relative to its programs, so each folder lies where it lay, below $copy.
copy_server() {
    local option folder
    copy=$(mktemp -d /tmp/meshhook-faults-XXXXXX)
    trap 'rm -rf "$copy"' EXIT
    chmod 755 "$copy"
    for option in --bindir --pkglibdir --sharedir; do
        folder=$("$PG_CONFIG" "$option")
        mkdir -p "$copy$folder"
        cp -a "$folder/." "$copy$folder"
    done
    MESHHOOK_PG_CONFIG=$copy$("$PG_CONFIG" --bindir)/pg_config
    MESHHOOK_SIDECAR_BIN=$TARGET/release/meshhook-sidecar
    export MESHHOOK_PG_CONFIG MESHHOOK_SIDECAR_BIN
}

build() {
    local extension version
    cargo pgrx install --release --pg-config "$MESHHOOK_PG_CONFIG" --no-default-features --features "pg$PG_MAJOR faults"
    cargo build --package meshhook-faults
    # A version to be updated to, and the way back.
    version=$(cargo_field Cargo.toml version)
    extension=$("$MESHHOOK_PG_CONFIG" --sharedir)/extension
    printf 'CREATE TABLE meshhook.swept_first (n integer);\nCREATE TABLE meshhook.swept_second (n integer);\n' \
        >"$extension/meshhook--$version--swept.sql"
    printf 'DROP TABLE meshhook.swept_first;\nDROP TABLE meshhook.swept_second;\n' \
        >"$extension/meshhook--swept--$version.sql"
}

# Every part is run whatever became of the one before.
failed=0
part() { "$TARGET/debug/meshhook-faults" "$@" || failed=1; }

[ $# -gt 0 ] || die "what shall fail?" "faults.sh quick, long, sweep, judge, recovery"
copy_server
build
case $1 in
quick)
    part sweep --quick --seed "$SEED"
    part sweep --bug all --seed "$SEED"
    part judge --seed "$SEED" --minutes 1
    ;;
long)
    part sweep --seed "$SEED"
    part sweep --bug all --seed "$SEED"
    part judge --seed "$SEED" --minutes "$MINUTES"
    part recovery
    ;;
*) part "$@" ;;
esac
exit "$failed"
