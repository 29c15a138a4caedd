#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs every benchmark, sums up BENCH_COUNT runs (default 1) of each with benchstat, and
# repeats the figures.
set -euo pipefail
source "$(dirname "$0")/progress.sh"

mapfile -t packages < <(git grep --untracked -l -E '^func Benchmark' -- '*_test.go' | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
if ((${#packages[@]} == 0)); then
  echo "There are no benchmarks." >&2
  exit 1
fi
results=$(mktemp)
trap 'rm -f "$results"' EXIT
go_compile_tests "the benchmarks" "${packages[@]}"
go test -run='^$' -bench=. -benchmem -count="${BENCH_COUNT:-1}" -timeout=8h "${packages[@]}" | tee "$results"
# To benchstat a figure would be a setting under which the benchmarks after it were run.
sed '/^figure: /d' "$results" | go tool benchstat /dev/stdin
grep '^figure: ' "$results" | sort
