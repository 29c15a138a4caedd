#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Every script and build file names its licence near its top. golangci-lint looks after Go files.
set -euo pipefail

missing=0
while IFS= read -r file; do
  if ! head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0'; then
    echo "$file: no SPDX-License-Identifier in its first three lines" >&2
    missing=1
  fi
done < <(git ls-files --cached --others --exclude-standard -- '*.sh' Makefile Dockerfile .ci/run)
exit "$missing"
