#!/bin/sh
# Runs the isolation tests against a private cluster: tests/isolation/run.sh [spec…]
#
# Goldens are tests/isolation/expected/*.out. After a deliberate change look at the differences that are
# printed, then copy the named result over the golden.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../pg_regress/cluster.sh"
start_cluster

output=${MESHHOOK_ISOLATION_OUTPUT:-$here/../../target/isolation}
mkdir -p "$output"
if [ $# -eq 0 ]; then
    set -- --schedule="$here/schedule"
fi
if "$pgxs/test/isolation/pg_isolation_regress" --inputdir="$here" --outputdir="$output" --bindir="$bindir" \
    --dbname=isolation_regression --load-extension=pgcrypto "$@"; then
    exit 0
fi
[ ! -f "$output/regression.diffs" ] || cat "$output/regression.diffs"
exit 1
