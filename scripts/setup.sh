#!/usr/bin/env bash
# Installs what building, testing and running the demo need and this machine lacks (Debian 12; root, or a user with
# sudo). Says what it does, and nothing when nothing is missing. `setup.sh lint` adds what only `make lint` needs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

LINT=${1:-}
PGRX_VERSION=$(cargo_field Cargo.toml pgrx)
RUST_VERSION=$(cargo_field Cargo.toml rust-version)
DENY_VERSION=0.20.2

# One line per package: the package, then a command that succeeds when what we need of it is there.
needed_packages() {
    local pg_bin=/usr/lib/postgresql/$PG_MAJOR/bin
    cat <<LIST
ca-certificates      test -d /etc/ssl/certs
build-essential      command -v cc && command -v make
pkg-config           command -v pkg-config
clang                command -v clang
libclang-dev         compgen -G '/usr/lib/llvm-*/lib/libclang.so' || compgen -G '/usr/lib/*/libclang-*.so*'
curl                 command -v curl
jq                   command -v jq
openssl              command -v openssl
python3              command -v python3
python3-venv         python3 -c 'import ensurepip, venv'
sudo                 command -v sudo
LIST
    # A Postgres from elsewhere is named by PG_CONFIG and must be complete already.
    if [ "$PG_CONFIG" = "$pg_bin/pg_config" ]; then
        cat <<LIST
postgresql-$PG_MAJOR            test -x $pg_bin/postgres
postgresql-server-dev-$PG_MAJOR test -f /usr/include/postgresql/$PG_MAJOR/server/postgres.h -a -x $pg_bin/pg_config
LIST
    fi
    if [ "$LINT" = lint ]; then
        echo 'shellcheck command -v shellcheck'
    fi
}

install_packages() {
    local missing=() package check
    while read -r package check; do
        bash -c "$check" >/dev/null 2>&1 || missing+=("$package")
    done < <(needed_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing: ${missing[*]}" \
        "setup installs Debian packages only; install their like by hand and call it again"
    step "apt-get update" as_root apt-get -q update
    step "apt-get install ${missing[*]}" \
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}"
}

# version_at_least HAVE WANTED
version_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

install_rust() {
    if ! command -v cargo >/dev/null; then
        step "rustup: the stable Rust toolchain" bash -c 'set -o pipefail
            curl --proto "=https" --tlsv1.2 -sSf --connect-timeout 15 https://sh.rustup.rs |
                sh -s -- -y --profile minimal --component rustfmt --component clippy' ||
            die "there is no Rust toolchain, and rustup's server cannot be reached" \
                "meshhook needs rustc $RUST_VERSION or newer (Debian 12's own is too old);" \
                "install it with https://rustup.rs, put cargo on the PATH, and call make setup again"
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    local have
    have=$(rustc --version | awk '{print $2}')
    version_at_least "$have" "$RUST_VERSION" || die "rustc $have is too old" \
        "meshhook needs rustc $RUST_VERSION or newer: rustup update stable"
    [ "$LINT" != lint ] || for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 ||
            die "cargo $component is missing" "rustup component add ${component/fmt/rustfmt}"
    done
}

install_pgrx() {
    if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX_VERSION" ]; then
        step "cargo install cargo-pgrx $PGRX_VERSION" \
            cargo install cargo-pgrx --version "$PGRX_VERSION" --locked --force
    fi
    local config=${PGRX_HOME:-$HOME/.pgrx}/config.toml known=() line major path
    line=$(sed -nE "s/^pg$PG_MAJOR *= *\"(.+)\"/\1/p" "$config" 2>/dev/null) || true
    [ -z "$line" ] || [ "$("$line" --bindir 2>/dev/null)" != "$("$PG_CONFIG" --bindir)" ] || return 0
    # init writes its file anew: what else it knew, and is still there, is named again.
    while read -r major path; do
        "$path" --version 2>/dev/null | grep -q "^PostgreSQL ${major}[^0-9]" && known+=("--pg$major=$path")
    done < <(sed -nE "/^pg$PG_MAJOR /d; s/^pg([0-9]+) *= *\"(.+)\"/\1 \2/p" "$config" 2>/dev/null)
    step "cargo pgrx init --pg$PG_MAJOR $PG_CONFIG" cargo pgrx init "--pg$PG_MAJOR=$PG_CONFIG" "${known[@]}"
}

install_deny() {
    [ "$(cargo deny --version 2>/dev/null)" = "cargo-deny $DENY_VERSION" ] ||
        step "cargo install cargo-deny $DENY_VERSION" \
            cargo install cargo-deny --version "$DENY_VERSION" --locked --force
}

install_packages
[ -x "$PG_CONFIG" ] || die "there is no $PG_CONFIG" "set PG_CONFIG to the pg_config of PostgreSQL $PG_MAJOR"
install_rust
install_pgrx
[ "$LINT" != lint ] || install_deny
