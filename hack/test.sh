#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs all tests, or those of the packages given, with the race detector. Cached results do not count:
# tests run binaries that Go's cache does not know about.
set -euo pipefail
source "$(dirname "$0")/progress.sh"

report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
go_build "the test report" "$report/testreport" ./hack/testreport

packages=("$@")
if ((${#packages[@]} == 0)); then
  packages=(./test/... ./...) # Those that take long first: none is left alone in the end.
fi
# Under the race detector a collection costs more than memory does.
export GOGC=400
count=$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' "${packages[@]}" | grep -c .)
go_compile_tests "the tests, with the race detector" -race "${packages[@]}"
# A hung test has a limit of its own; that of a package only has to be longer than a slow machine takes.
{
  # Three packages at a time: many start a cluster, and wait half of the time.
  go test -short -p=3 -race -count=1 -timeout=4h -json "${packages[@]}"
  # What is cut short there: the race detector has it take eight times as long, and finds nothing more.
  if (($# == 0)); then
    go test -count=1 -timeout=4h -json -run='CrashPoints$|^TestFullForever$|^TestModel$' ./pkg/token
  fi
} | "$report/testreport" "$count"
