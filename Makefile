# calico-agent. `make demo` and `make test` install what they need (scripts/setup, as root).

SHELL   := /bin/sh
DESTDIR ?=
export PATH := $(PATH):/usr/sbin:/sbin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

SECONDS ?= 60

# make demo POLICY=1 KEEP=1 FLAVOUR=legacy|nft|nftables RELEASE=1
POLICY  ?=
KEEP    ?=
FLAVOUR ?= auto
RELEASE ?=
FULL    ?=
ONLY    ?=
PROFILE_FLAG := $(if $(RELEASE),--release)
TARGET  := target/$(if $(RELEASE),release,debug)

# End-to-end tests wait more than they calculate, but the whole of one is a dozen processes.
E2E_THREADS ?= 2

.PHONY: help setup build test full bench fuzz demo demo-clean lint fmt doc install deb dist sysext
.DEFAULT_GOAL := help

help:
	@echo 'make demo      two hosts out of namespaces; POLICY=1, KEEP=1, FLAVOUR=legacy|nft|nftables, RELEASE=1'
	@echo 'make test      all tests (root: some make network namespaces)'
	@echo 'make full      all tests at length, on all dataplanes, and an hour of fuzzing'
	@echo 'make build     agent and plugin, release    make install   DESTDIR='
	@echo 'make deb       the Debian package: target/deb/calico-agent_<version>_<architecture>.deb'
	@echo 'make dist      tarball for /opt, system extension, checksums, bill of materials; ARCH=x86_64|aarch64'
	@echo 'make lint      formatting, clippy, documentation, all warnings are errors'
	@echo 'make bench     from etcd to the kernel, each figure beside a control; FULL=1 at length'
	@echo 'make fuzz      every decoder, SECONDS=60 in all'
	@echo 'make setup fmt doc demo-clean'

setup:
	@scripts/setup

build: setup
	cargo build --release --locked -p calico-agent -p calico-cni --bins

test:
	@scripts/setup --tests
	@TEST_THREADS=$(E2E_THREADS) scripts/test

# What each length is set to, and how to set another: CONTRIBUTING.md.
full:
	@E2E_THREADS=$(E2E_THREADS) scripts/full

# Each figure beside a control of the same run; absolute times vary with the machine. FULL=1: at length.
# ONLY=start,idle: these parts alone. What is measured: docs/performance.md.
bench: setup
	cargo build --release --locked -p calico-agent -p calico-cni --bins \
	    --example calc_budget --example stored_budget --example kernel_budget
	cargo build --locked -p calico-e2e --bins
	CALICO_AGENT_BIN=target/release/calico-agent CALICO_PLUGIN_BIN=target/release/calico \
	    target/debug/calico-bench $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY)) \
	    --results bench/results.json --markdown bench/results.md

fuzz: setup
	scripts/fuzz $(SECONDS)

demo: setup
	cargo build --locked $(PROFILE_FLAG) --workspace --bins
	@$(TARGET)/calico-demo --flavour $(FLAVOUR) $(if $(POLICY),--policy) $(if $(KEEP),--keep)

demo-clean:
	$(TARGET)/calico-demo clean

lint: setup
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --manifest-path fuzz/Cargo.toml --target-dir target -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items

fmt:
	cargo fmt --all

doc:
	cargo doc --locked --workspace --no-deps --open

# The same commit gives the same bytes, wherever it is built. VERSION= gives it another version.
deb: setup
	packaging/build
	@BINARY=target/package/release/calico-agent PLUGIN=target/package/release/calico \
	    MANUAL=target/package/manual $(if $(VERSION),VERSION='$(VERSION)') packaging/deb/build

# What goes where is in packaging/install alone; the units name the paths, so there is no PREFIX.
install:
	@test -x target/release/calico-agent && test -x target/release/calico || \
	    { echo 'run make build first' >&2; exit 1; }
	packaging/install '$(DESTDIR)'
	@test -n '$(DESTDIR)' || echo 'Next: see docs/install.md.'

# Both come out of one run, in target/dist: the same programs, laid out twice.
ARCH ?= x86_64
dist sysext:
	@scripts/setup --dist
	@ARCH=$(ARCH) packaging/dist/build
