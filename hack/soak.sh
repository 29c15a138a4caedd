#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Compares the token store with its model over so many random histories (default 10000).
# Without the race detector: it is the number that counts here.
set -euo pipefail

report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
go build -o "$report/testreport" ./hack/testreport

MODEL_HISTORIES=${1:-10000} go test -count=1 -timeout=60m -json -run='^TestModel$' ./pkg/token | "$report/testreport"
