#!/usr/bin/env bash
# Measures meshhook on this machine, in a cluster of its own with fsync on: prints tables and writes JSON.
#
#   bench.sh [runs]        workflows; target/bench.json
#   bench.sh event-store   the event store beside Message DB; target/bench-event-store.json
#   bench.sh replay        replaying a long log, what snapshots cost, what replays take from runs; target/bench-replay.json
#   bench.sh http          signed webhooks in and HTTP calls out, through the sidecar; target/bench-http.json
#
# Further arguments go to the load driver (meshhook-bench runs --help).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

benchmark=runs output=bench.json
case ${1:-} in
runs) shift ;;
event-store) benchmark=event-store output=bench-event-store.json && shift ;;
replay) benchmark=replay output=bench-replay.json && shift ;;
http) benchmark=http output=bench-http.json && shift ;;
esac
scripts/build.sh extension
[ $benchmark != http ] || scripts/build.sh sidecar
step "load driver, release" cargo build --release --package meshhook-bench
export MESHHOOK_PG_CONFIG=$PG_CONFIG MESHHOOK_SIDECAR_BIN=$TARGET/release/meshhook-sidecar
exec "$TARGET/release/meshhook-bench" "$benchmark" --output "$TARGET/$output" "$@"
