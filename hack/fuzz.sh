#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs every fuzz target for the time given (default 30s each).
set -euo pipefail

time=${1:-30s}
count=0
while IFS=: read -r file target; do
  echo "Fuzzing $target in $(dirname "$file") for $time."
  go test "./$(dirname "$file")" -run='^$' -fuzz="^$target\$" -fuzztime="$time"
  count=$((count + 1))
done < <(git grep --untracked -o -E '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed 's/:func /:/')
echo "$count fuzz targets run for $time each."
