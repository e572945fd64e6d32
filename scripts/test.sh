#!/usr/bin/env bash
# Runs the tests in layers, cheapest first, and ends with one line that sums them up:
#
#   test.sh                     every layer
#   test.sh engine sql e2e      only these (names below)
#   test.sh long                what takes too long for every change
#
#   engine    the pure crates: definitions, expressions, decisions, signatures, the sidecar's own tests, the model of the
#             event store's order, the simulation. No server.
#   sql       pg_test (Rust glue), pg_regress (the SQL surface), isolation (concurrent sessions), upgrade
#   e2e       real clusters, sidecars, kills
#   faults    a crash at each named point of the extension, planted bugs, random workflows under random faults: the
#             quick form of `make test-faults`
set -uo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

export MESHHOOK_PG_CONFIG=$PG_CONFIG MESHHOOK_SIDECAR_BIN=$TARGET/release/meshhook-sidecar
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
# What cargo and pgrx tell about building, and empty test binaries.
NOISE='^ *(Compiling|Downloaded|Downloading|Blocking|Fresh|Dirty|Adding|Locking|Updating|Finished|Doc-tests) |^ *Running |^$'
NOISE+='|^running 0 tests|^test result: ok. 0 passed; 0 failed; 0 ignored'
NOISE+='|\[1m *(Using|Building|Running|Installing|Copying|Discovered|Writing|Finished)\b|^CARGO_PGRX_TEST|^Using sudo to copy'
NAMES=() PASSED=() FAILED=() SECONDS_TAKEN=()
started_all=$SECONDS

# layer NAME COMMAND…: runs a layer, shows what it prints, and reads its counts from that.
layer() {
    local name=$1 log=$LOGS/test-$1.log started=$SECONDS status=0 counts passed failed
    shift
    heading "$name"
    mkdir -p "$LOGS"
    "$@" </dev/null 2>&1 | tee "$log" | { grep --line-buffered -vE "$NOISE" || true; }
    status=${PIPESTATUS[0]}
    counts=$(python3 scripts/count_tests.py "$log")
    read -r passed failed <<<"$counts"
    # A layer that ended badly without naming a failed test, or that ran none, has failed all the same.
    if [ "$failed" = 0 ] && { [ "$status" != 0 ] || [ "$passed" = 0 ]; }; then
        failed=1
        echo "$name: exit code $status after $passed passed tests" >&2
    fi
    NAMES+=("$name") PASSED+=("$passed") FAILED+=("$failed") SECONDS_TAKEN+=($((SECONDS - started)))
}

# prepare NAME COMMAND…: builds. When that fails nothing after it can run: one failed test, and the end.
prepare() {
    step "$@" || {
        NAMES+=("$1") PASSED+=(0) FAILED+=(1) SECONDS_TAKEN+=(0)
        finish
    }
}

release_installed=
install_release() {
    [ -z "$release_installed" ] || return 0
    release_installed=1
    heading "build: the extension and the sidecar"
    scripts/build.sh || prepare "release build" false
}

engine() {
    heading "build: the pure crates"
    local crates=(--package meshhook-engine --package meshhook-sidecar --package meshhook-order-model)
    crates+=(--package meshhook-simulation)
    prepare "tests of the pure crates" cargo test --no-run "${crates[@]}"
    layer engine cargo test "${crates[@]}"
}

# Builds and installs a debug extension with the tests in it; the release is installed anew afterwards. Runs in a
# subshell, as a part of layer's pipeline.
pg_test() {
    local runas=()
    pgdata=$(mktemp -d /tmp/meshhook-pg-test-XXXXXX)
    trap 'rm -rf "$pgdata" 2>/dev/null || as_root rm -rf "$pgdata"' EXIT
    # PostgreSQL refuses root; and only with --runas does pgrx install by sudo.
    if [ "$(id -u)" = 0 ] || [ ! -w "$("$PG_CONFIG" --pkglibdir)" ]; then
        chmod 755 "$pgdata"
        as_root chown postgres: "$pgdata"
        runas=(--runas postgres)
    fi
    cargo pgrx test "pg$PG_MAJOR" --no-default-features --features "pg$PG_MAJOR" "${runas[@]}" --pgdata "$pgdata"
}

sql() {
    layer pg_test pg_test
    install_release
    layer pg_regress tests/pg_regress/run.sh
    layer isolation tests/isolation/run.sh
    layer upgrade python3 scripts/upgrade_test.py
}

e2e() {
    install_release
    prepare "end-to-end tests" cargo test --no-run --package meshhook-testkit --package meshhook-e2e
    layer e2e cargo test --package meshhook-testkit --package meshhook-e2e
}

faults() {
    install_release
    layer faults scripts/faults.sh quick
}

# Many more random cases than usual, what is marked #[ignore] for taking long, and the end-to-end tests again and
# again, which is how a race is found.
long() {
    install_release
    heading "build: everything, release"
    prepare "all tests" cargo test --release --no-run --workspace --exclude meshhook
    layer properties env PROPTEST_CASES=100000 MESHHOOK_FUZZ_CASES=10000000 MESHHOOK_FUZZ_SEED="$(date +%s)" \
        cargo test --release --package meshhook-engine
    layer differential env MESHHOOK_DIFFERENTIAL_CASES=100000 cargo test --release --package meshhook-engine \
        --test differential
    layer simulation env PROPTEST_CASES=1000000 MESHHOOK_SIMULATION_SEED="$(date +%s)" cargo test --release \
        --package meshhook-simulation
    layer ignored cargo test --release --workspace --exclude meshhook -- --ignored
    for round in 1 2 3 4 5; do
        layer "e2e-$round" cargo test --release --package meshhook-e2e
    done
}

# Shows what every layer came to; the last line is read by machines.
finish() {
    local i passed=0 failed=0
    heading "summary"
    printf '   %-12s %8s %8s %8s\n' layer passed failed seconds
    for i in "${!NAMES[@]}"; do
        printf '   %-12s %8d %8d %8d\n' "${NAMES[i]}" "${PASSED[i]}" "${FAILED[i]}" "${SECONDS_TAKEN[i]}"
        passed=$((passed + PASSED[i])) failed=$((failed + FAILED[i]))
    done
    printf '   %-12s %8d %8d %8d\n\n' total "$passed" "$failed" $((SECONDS - started_all))
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ] || exit 1
    exit 0
}

[ $# -gt 0 ] || set -- engine sql e2e faults
for name in "$@"; do
    case $name in
    engine) engine ;;
    sql) sql ;;
    e2e) e2e ;;
    faults) faults ;;
    long) long ;;
    *) die "no such layer: $name" "engine, sql, e2e, faults, long" ;;
    esac
done
finish
