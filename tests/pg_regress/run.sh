#!/bin/sh
# Runs the SQL regression tests against a private cluster: tests/pg_regress/run.sh [test…]
#
# Goldens are tests/pg_regress/expected/*.out. After a deliberate change look at the differences that are
# printed, then copy the named result over the golden.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/cluster.sh"
start_cluster

output=${MESHHOOK_REGRESS_OUTPUT:-$here/../../target/pg_regress}
mkdir -p "$output"
if [ $# -eq 0 ]; then
    set -- --schedule="$here/schedule"
fi
if "$pgxs/test/regress/pg_regress" --inputdir="$here" --outputdir="$output" --bindir="$bindir" \
    --dbname=regression --load-extension=meshhook --load-extension=pgcrypto "$@"; then
    exit 0
fi
[ ! -f "$output/regression.diffs" ] || cat "$output/regression.diffs"
exit 1
