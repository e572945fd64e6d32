#!/usr/bin/env bash
# Measures meshhook on this machine, in a cluster of its own with fsync on: prints a table and writes
# target/bench.json. Further arguments go to the load driver (meshhook-bench --help).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

scripts/build.sh extension
step "load driver, release" cargo build --release --package meshhook-bench
export MESHHOOK_PG_CONFIG=$PG_CONFIG
exec "$TARGET/release/meshhook-bench" --output "$TARGET/bench.json" "$@"
