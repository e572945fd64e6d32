# Everything there is to do with this repository. PG_MAJOR and PG_CONFIG choose another PostgreSQL.
export PG_MAJOR ?= 15
export PG_CONFIG ?= /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config
# A toolchain that this shell was not told about.
export PATH := $(PATH):$(HOME)/.cargo/bin
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup setup-lint build demo demo-stop test test-engine test-sql test-e2e test-long test-faults lint fmt bench docs \
        bench-event-store bench-replay bench-http release-snapshot golden docker-check

help:            ## this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

setup:           ## install what is missing to build, test and run the demo
	@scripts/setup.sh

setup-lint:
	@scripts/setup.sh lint

build: setup     ## build and install the extension, build the sidecar
	@scripts/build.sh

demo: build      ## a signed webhook becomes a finished, replayable run (KEEP=1 leaves it up)
	@python3 scripts/demo/demo.py run $(if $(KEEP),--keep)

demo-stop:       ## end what `make demo KEEP=1` left up
	@python3 scripts/demo/demo.py stop

test: setup      ## every layer of tests
	@scripts/test.sh

test-engine: setup ## only the pure crates, without a server
	@scripts/test.sh engine

test-sql: setup  ## only pg_test, pg_regress, isolation and upgrade
	@scripts/test.sh sql

test-e2e: setup  ## only the end-to-end tests
	@scripts/test.sh e2e

test-long: setup ## what takes too long for every change
	@scripts/test.sh long

test-faults: build ## a crash at every point under every example, planted bugs, random faults (SEED= MINUTES=)
	@SEED=$(SEED) MINUTES=$(MINUTES) scripts/faults.sh long

lint: setup-lint ## formatting, clippy, licences, scripts, the SQL catalogue
	@scripts/lint.sh

fmt:             ## format the Rust sources
	@cargo fmt --all

bench: setup     ## runs/s, events/s, WAL per run, idle latency; also to target/bench.json
	@scripts/bench.sh runs $(ARGS)

bench-event-store: setup ## the event store beside Message DB and a bare insert (ARGS='--parts all' for the long curves)
	@scripts/bench.sh event-store $(ARGS)

bench-replay: setup ## replaying a log of 100,000 events, what snapshots cost, what replays take from runs
	@scripts/bench.sh replay $(ARGS)

bench-http: setup ## signed webhooks in and HTTP calls out, through the sidecar
	@scripts/bench.sh http $(ARGS)

docs: build      ## write docs/sql-reference.md from the COMMENTs, docs/workflow.schema.json from the node types
	@cargo run --quiet --package meshhook-engine --example workflow_schema >docs/workflow.schema.json
	@python3 scripts/gen_sql_reference.py

release-snapshot: setup ## freeze the install script of this version
	@scripts/release-snapshot.sh

golden: setup    ## keep the logs of the examples' runs for later releases to replay
	@scripts/golden.sh

docker-check:    ## build the container image with buildah and run the demo's steps in it (Debian, root)
	@scripts/docker-check.sh
