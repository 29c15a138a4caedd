#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# The tests whose bars speak of minutes or of thousands, at full length and without the race
# detector: it is the number that counts. The token store is compared with its model over so many
# random histories (default 10000); API servers are restarted under load, watched by all kinds of
# clients, so many times in each way (default 20); so many discovery pods end at random (default
# 600); for 5 minutes nothing happens to 200 HSMSecrets; and the code is broken on purpose, once for
# each row of test/suites/mutants/rows.go.
set -euo pipefail
source "$(dirname "$0")/progress.sh"

report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
go_build "the test report" "$report/testreport" ./hack/testreport

export MODEL_HISTORIES=${1:-10000} REPLICA_RESTARTS=${2:-20} DISCOVERY_KILLS=${3:-600} STEADY_WINDOW=5m
tests=(TestModel TestReplicas TestDevices TestSteady TestMutants)
packages=(./pkg/token ./test/suites/faults ./test/suites/devices ./test/suites/behaviour ./test/suites/mutants)
go_compile_tests "the tests" "${packages[@]}"
go test -p=1 -count=1 -timeout=8h -json -run="^($(IFS='|' && echo "${tests[*]}"))\$" "${packages[@]}" | "$report/testreport"
