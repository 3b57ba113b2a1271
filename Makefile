# Cinnabar: every task of the project, by people and by machines. `make` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/var/tools/bin:$(PATH)

CARGO ?= cargo
# Seconds that `make fuzz` spends on each target, and which targets.
SECS ?= 60
TARGET ?= policy public_key system_secret_key attribute_key ciphertext wrapped_key sealed_file \
    log_file log_entry frame snapshot_file resp config \
    record record_key upload_pem schema policy_text token

# Power cuts that `make powercut` makes; SEED repeats a run.
CUTS ?= 200
SEED ?=

# Least kills, kills of the leader and judged operations of `make storm`, and how often each break of the network and each
# rolling restart is made there; SEED repeats a run.
KILLS ?= 100
LEADER_KILLS ?= 20
OPERATIONS ?= 100000
ROUNDS ?= 5
ROLLS ?= 3
STORM = $(if $(SEED),SEED=$(SEED)) KILLS=$(KILLS) LEADER_KILLS=$(LEADER_KILLS) OPERATIONS=$(OPERATIONS) ROUNDS=$(ROUNDS) ROLLS=$(ROLLS)
# One after the other, so that each has the machine for itself.
STORM_ARGS = --nocapture --test-threads 1

.PHONY: help setup demo demo-down demo-abe test test-planted constant-time e2e verify fmt-check lint docs deny tidy fix bench bench-kv bench-authority bench-edge fuzz powercut storm advisories

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: ## install what is missing, without root; safe to repeat
	@scripts/setup $(SETUP_ARGS)

# Neither needs the tools that setup may have to compile.
demo demo-abe test: SETUP_ARGS := --quick

demo: setup ## the main job, live, on loopback; CHECK=1 ends it again and fails if anything was not as it should be; BIN=FILE with this binary
	@$(if $(BIN),,$(CARGO) build --release --quiet --locked --package cinnabar --package cinnabar-authority)
	@$(or $(BIN),target/release/cinnabar) demo up $(if $(CHECK),--check)

demo-down: ## end the demonstration, by the process ids that it wrote down
	@$(or $(BIN),target/release/cinnabar) demo down

demo-abe: setup ## only the encryption: a policy, a machine that may open and one that may not
	@$(CARGO) build --release --quiet --locked
	@scripts/demo target/release/cinnabar

test: setup ## all tests
	$(CARGO) test --workspace --locked

test-planted: ## plant each known defect and see that the attack tests turn red
	@scripts/test-planted

constant-time: ## count instructions with different secrets (needs valgrind)
	@scripts/constant-time

e2e: ## only the tests that run the real binary
	$(CARGO) test --locked --test e2e

verify: fmt-check lint docs deny tidy ## formatting, lints, docs, dependencies, tidiness; never writes to the tree

fmt-check: ## is the formatting right?
	$(CARGO) fmt --all --check

lint: ## clippy, a warning is an error
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

docs: ## build the documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

deny: ## licences, sources and who may use what
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: run make setup"; exit 1; }
	$(CARGO) deny --offline --locked check bans licenses sources

tidy: ## what compilers and linters do not check
	$(CARGO) test --locked --test tidy

advisories: ## compare the lock file with the public advisory database (needs the network)
	$(CARGO) deny check advisories

fix: ## apply lints' suggestions and format
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

bench: ## figures with processor and commit, then criterion's
	$(CARGO) run --release --locked -- abe bench
	$(CARGO) bench --locked -p cinnabar-abe

bench-kv: ## the store beside its peers; make bench-kv ARGS="--quick --parts puts"
	@scripts/bench-kv $(ARGS)

bench-authority: ## the authority as full as a large network's; make bench-authority ARGS="--quick"
	@scripts/bench-authority $(ARGS)

bench-edge: ## signatures and handshakes of the edge node; make bench-edge ARGS="--quick --parts sign,stream"
	@scripts/bench-edge $(ARGS)

fuzz: setup ## fuzz every decoder: make fuzz SECS=30 TARGET="policy ciphertext"
	@scripts/fuzz $(SECS) $(TARGET)

powercut: ## cut the power of a whole store, again and again: make powercut CUTS=200 (needs root)
	@scripts/powercut $(CUTS) $(SEED)

storm: ## kills, partitions, snapshots and full disks under judged load: make storm KILLS=100 (wants root)
	$(STORM) $(CARGO) test --locked --test cluster -- $(STORM_ARGS) disk_full partition rolling snapshot storm
	$(STORM) WIRING=mesh $(CARGO) test --locked --test cluster -- $(STORM_ARGS) partition
	STATE_MIB=1024 $(CARGO) test --locked -p cinnabar-kv --test memory -- $(STORM_ARGS) installing
