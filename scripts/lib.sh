# shellcheck shell=bash
# What the shell scripts share: where things are, how steps are shown, who is root. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG_MAJOR=${PG_MAJOR:-15}
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG_MAJOR/bin/pg_config}
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
LOGS=$TARGET/logs
# What is installed for the server must be readable by the account it runs under.
umask 022
cd "$ROOT" || exit 1

# A toolchain installed for this user counts even when the shell was not told about it.
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' GREEN='' RED='' PLAIN=''
fi

heading() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN"; }
die() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# as_root COMMAND…: runs it with root's rights.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: $*" "run it as root, or install sudo"
    fi
}

# step NAME COMMAND…: runs it and says how long it took. On a terminal its output is shown as it comes; elsewhere
# it goes to target/logs/NAME.log, and its end is shown when the command fails.
step() {
    local name=$1 started=$SECONDS status=0 log
    shift
    mkdir -p "$LOGS"
    log=$LOGS/${name//[^a-zA-Z0-9._-]/-}.log
    if [ -t 1 ]; then
        printf '%s-- %s%s\n' "$DIM" "$name" "$PLAIN"
        "$@" </dev/null || status=$?
    else
        "$@" </dev/null >"$log" 2>&1 || status=$?
    fi
    if [ "$status" = 0 ]; then
        printf '   %sok%s     %-44s %4d s\n' "$GREEN" "$PLAIN" "$name" $((SECONDS - started))
    else
        [ -t 1 ] || tail -n 80 "$log"
        printf '   %sFAILED%s %-44s %4d s   %s\n' "$RED" "$PLAIN" "$name" $((SECONDS - started)) "$*"
    fi
    return "$status"
}

# cargo_field FILE KEY: the quoted value of KEY = "…" (or "=…") in a Cargo.toml.
cargo_field() { sed -nE "s/^$2 *= *\"=?([^\"]+)\".*/\1/p" "$1" | head -n 1; }
