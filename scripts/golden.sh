#!/usr/bin/env bash
# Keeps the logs that the examples' tests make as tests/golden/VERSION, for every later engine to decide again
# (crates/engine/tests/golden.rs). Done once per release; from then on the files never change (make lint).
# FORCE=1 makes those of a version anew that was never released. `golden.sh check` only compares checksums.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

golden=tests/golden
if [ "${1:-}" = check ]; then
    (cd "$golden" && sha256sum --check --quiet --strict SHA256SUMS &&
        diff <(sed 's/^[0-9a-f]*  //' SHA256SUMS) <(find . -name '*.json' | sort)) ||
        die "a log in $golden was changed after its release" "git checkout $golden; make golden makes those of a new version"
    exit 0
fi
folder=$golden/$(cargo_field Cargo.toml version)
[ ! -e "$folder" ] || [ -n "${FORCE:-}" ] || die "$folder is frozen" \
    "raise the version in Cargo.toml for the next release; FORCE=1 if it was never released"
scripts/build.sh
rm -rf "$folder" && mkdir -p "$folder"
export MESHHOOK_PG_CONFIG=$PG_CONFIG MESHHOOK_SIDECAR_BIN=$TARGET/release/meshhook-sidecar
MESHHOOK_GOLDEN=$PWD/$folder cargo test --package meshhook-e2e --test suite examples::
(cd "$golden" && find . -name '*.json' | sort | xargs sha256sum >SHA256SUMS)
echo "$folder: $(find "$folder" -name '*.json' | wc -l) files, $(cat "$folder"/*.json | grep -c '^{') runs"
