#!/usr/bin/env bash
# Freezes the install script of the current version as sql/releases/meshhook--VERSION.sql and notes its checksum.
# Done once per release; from then on the file never changes (make lint) and updates from it are tested (make test).
# FORCE=1 takes the snapshot of a version anew that was never released.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

version=$(cargo_field Cargo.toml version)
snapshot=sql/releases/meshhook--$version.sql
[ ! -e "$snapshot" ] || [ -n "${FORCE:-}" ] || die "$snapshot is frozen" \
    "raise the version in Cargo.toml for the next release; FORCE=1 if $version was never released"
scripts/build.sh extension
mkdir -p sql/releases
cp "$("$PG_CONFIG" --sharedir)/extension/meshhook--$version.sql" "$snapshot"
chmod 644 "$snapshot"
(cd sql/releases && sha256sum meshhook--*.sql >SHA256SUMS)
echo "$snapshot: $(wc -l <"$snapshot") lines"
