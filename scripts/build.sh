#!/usr/bin/env bash
# Builds the extension (release) and installs it into the PostgreSQL that PG_CONFIG names; builds the sidecar.
# `build.sh extension` or `build.sh sidecar` does one of the two.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

part=${1:-all}
sudo=()
[ -w "$("$PG_CONFIG" --pkglibdir)" ] || sudo=(--sudo)
if [ "$part" != sidecar ]; then
    # The install writes into the file that is there. Running servers have that one mapped and would crash: they keep
    # it, a copy takes its place.
    library=$("$PG_CONFIG" --pkglibdir)/meshhook.so
    if [ -e "$library" ]; then
        as_root cp -p "$library" "$library.new" && as_root mv -f "$library.new" "$library"
    fi
    step "extension, release, installed" cargo pgrx install --release --pg-config "$PG_CONFIG" \
        --no-default-features --features "pg$PG_MAJOR" "${sudo[@]}"
fi
if [ "$part" != extension ]; then
    step "sidecar, release" cargo build --release --package meshhook-sidecar
fi
