#!/usr/bin/env bash
# Everything that is checked without running a test. `lint.sh fast` leaves out what needs a build of the extension.
set -uo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

failed=0
check() { step "$@" || failed=$((failed + 1)); }

clippy_extension() {
    cargo clippy --package meshhook --all-targets --no-default-features --features "pg$PG_MAJOR pg_test faults" -- -D warnings
}
scripts_are_sound() {
    shellcheck -S warning -x .ci/run scripts/*.sh && shellcheck -s sh -e SC1091,SC2034,SC2154 tests/*/*.sh examples/*/*.sh && python3 -m compileall -q scripts
}

heading lint
check "rustfmt" cargo fmt --all --check
check "texts" python3 scripts/text_lint.py
check "golden logs" scripts/golden.sh check
check "shell and python scripts" scripts_are_sound
check "licences, bans, sources" cargo deny --workspace --log-level error check licenses bans sources
check "clippy, pure crates" cargo clippy --workspace --exclude meshhook --all-targets -- -D warnings
check "clippy, extension" clippy_extension
if [ "${1:-}" != fast ]; then
    # The catalogues are those of the extension as it is now.
    check "the extension, built" scripts/build.sh extension
    check "sql catalogue" python3 scripts/sql_lint.py
fi
[ "$failed" = 0 ] || die "$failed checks failed"
