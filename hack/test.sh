#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs all tests, or those of the packages given, with the race detector. Cached results do not count:
# tests run binaries that Go's cache does not know about.
set -euo pipefail

report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
go build -o "$report/testreport" ./hack/testreport

packages=("$@")
if ((${#packages[@]} == 0)); then
  packages=(./...)
fi
# Two packages at a time: many start a cluster, and wait half of the time.
go build -race ./...
go test -p=2 -race -count=1 -timeout=30m -json "${packages[@]}" | "$report/testreport"
