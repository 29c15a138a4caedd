#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Compares the token store with its model over so many random histories (default 10000), stops it
# at all places in all ways, and restarts API servers under load, watched by all kinds of clients,
# so many times (default 20): minutes. Without the race detector: it is the number that counts.
set -euo pipefail

report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
go build -o "$report/testreport" ./hack/testreport

MODEL_HISTORIES=${1:-10000} CRASH_SCENARIOS=all REPLICA_RESTARTS=${2:-20} \
  go test -p=1 -count=1 -timeout=60m -json -run='^(TestModel|TestCrashPoints|TestProvisioningCrashPoints|TestReplicas)$' ./pkg/token ./test/faults | "$report/testreport"
