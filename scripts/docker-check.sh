#!/usr/bin/env bash
# Builds the container image without a registry of images, and runs the demo's steps in it. For Debian machines that
# reach package registries only; as root; about 15 minutes and 15 GB below TMPDIR, all of it removed at the end.
#
# BASE is a bookworm made by debootstrap with Debian's PostgreSQL 15; RUST is this machine's toolchain.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || die "this needs root: buildah works in a chroot"
[ "$PG_MAJOR" = 15 ] || die "Debian 12 has PostgreSQL 15 only"
missing=()
for package in buildah debootstrap; do
    command -v "$package" >/dev/null || missing+=("$package")
done
[ ${#missing[@]} = 0 ] || step "apt-get install ${missing[*]}" \
    env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}"

work=$(mktemp -d "${TMPDIR:-/tmp}/meshhook-image-XXXXXX")
image=localhost/meshhook:check
store=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
b() { buildah "${store[@]}" "$@"; }
# in_container NAME COMMAND…
in_container() {
    local name=$1
    shift
    b run --isolation chroot "$name" -- "$@"
}
cleanup() {
    b rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

make_base() {
    debootstrap --variant=minbase --include=ca-certificates bookworm "$work/bookworm"
    b from --name base scratch
    b add base "$work/bookworm" /
    rm -rf "$work/bookworm"
    # Like the official image: no cluster of its own, nothing started.
    in_container base sh -ec '
        mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
        printf "#!/bin/sh\nexit 101\n" > /usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        apt-get -q update
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends postgresql-15'
    b commit --rm base localhost/base
}

make_rust() {
    b from --name rust scratch
    b add rust "$(rustc --print sysroot)/bin" /usr/local/cargo/bin
    b add rust "$(rustc --print sysroot)/lib" /usr/local/cargo/lib
    mkdir "$work/empty"
    b add rust "$work/empty" /usr/local/rustup
    # A machine may trust more than Debian does, a registry's mirror for one: cargo is told.
    printf '[http]\ncainfo = "/usr/local/cargo/ca.crt"\n' >"$work/config.toml"
    b add rust "$work/config.toml" /usr/local/cargo/config.toml
    b add rust /etc/ssl/certs/ca-certificates.crt /usr/local/cargo/ca.crt
    b commit --rm rust localhost/rust
}

# The image's own way to a new cluster: its configuration sample, its init script.
new_cluster() {
    in_container check runuser -u postgres -- sh -ec '
        bin=/usr/lib/postgresql/15/bin
        $bin/initdb --pgdata /tmp/data >/dev/null
        $bin/pg_ctl --pgdata /tmp/data --silent --wait --options "-c listen_addresses= -c unix_socket_directories=/tmp" start
        trap "$bin/pg_ctl --pgdata /tmp/data --silent --mode fast stop" EXIT
        export PGHOST=/tmp MESHHOOK_SIDECAR_PASSWORD=secret
        /docker-entrypoint-initdb.d/10-meshhook.sh
        psql --no-psqlrc -c "SELECT * FROM meshhook.status()"
        psql --no-psqlrc -Atc "SELECT rolname FROM pg_roles WHERE rolname = '\''sidecar'\''" | grep -qx sidecar
        test "$(psql --no-psqlrc -Atc "SHOW shared_preload_libraries")" = meshhook'
}

# The demo as it is, on the image's PostgreSQL, extension and sidecar; python, curl and openssl are its own needs.
demo() {
    in_container check sh -ec '
        apt-get -q update
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3 curl openssl' >/dev/null
    b add check scripts /demo/scripts
    b add check examples /demo/examples
    in_container check env MESHHOOK_SIDECAR_BIN=/usr/local/bin/meshhook-sidecar python3 /demo/scripts/demo/demo.py run
}

step "base image: bookworm, PostgreSQL 15" make_base
step "toolchain image: $(rustc --version)" make_rust
step "the image" buildah "${store[@]}" bud --isolation chroot --build-arg PG_MAJOR=15 \
    --build-arg BASE=localhost/base --build-arg RUST=localhost/rust --tag "$image" .
b from --name check "$image" >/dev/null
step "a new cluster in it" new_cluster
heading "the demo in it"
demo
