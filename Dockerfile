# PostgreSQL with meshhook preloaded, and the sidecar in the same image (compose.yaml runs one container of each).
#
#   docker build -t meshhook .                                  PostgreSQL 15
#   docker build -t meshhook --build-arg PG_MAJOR=17 .          another one
#
# BASE is any image that has PostgreSQL as Debian lays it out and a source for its headers; RUST any image with a
# toolchain below /usr/local/cargo and /usr/local/rustup.
ARG PG_MAJOR=15
ARG BASE=docker.io/library/postgres:${PG_MAJOR}-bookworm
ARG RUST=docker.io/library/rust:1.95-bookworm

FROM ${RUST} AS rust

# Built on the very base it will run on: same headers, same libc.
FROM ${BASE} AS builder
ARG PG_MAJOR
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential ca-certificates clang libclang-dev pkg-config postgresql-server-dev-${PG_MAJOR} \
    && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
WORKDIR /src
# cargo-pgrx in the very version the extension is built with; made again only when Cargo.toml changes.
COPY Cargo.toml .
RUN cargo install cargo-pgrx --locked --version "$(sed -nE 's/^pgrx = "=(.+)"$/\1/p' Cargo.toml)" \
    && cargo pgrx init --pg${PG_MAJOR}=/usr/lib/postgresql/${PG_MAJOR}/bin/pg_config
COPY . .
RUN cargo pgrx package --pg-config /usr/lib/postgresql/${PG_MAJOR}/bin/pg_config \
        --no-default-features --features pg${PG_MAJOR} --out-dir /out \
    && cargo build --release --package meshhook-sidecar \
    && install -D target/release/meshhook-sidecar /out/usr/local/bin/meshhook-sidecar \
    && install -D -m 644 LICENSE /out/usr/share/doc/meshhook/LICENSE \
    && install -D -m 755 docker/10-meshhook.sh /out/docker-entrypoint-initdb.d/10-meshhook.sh

FROM ${BASE}
ARG PG_MAJOR
COPY --from=builder /out/ /
# New clusters preload meshhook. The key lies outside the data folder, in a volume of its own.
RUN printf "%s\n" "shared_preload_libraries = 'meshhook'" "meshhook.kek_file = '/etc/meshhook/kek'" \
        >> /usr/share/postgresql/${PG_MAJOR}/postgresql.conf.sample \
    && install -d -o postgres -g postgres -m 700 /etc/meshhook
VOLUME /etc/meshhook
EXPOSE 8080
