#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Finds, downloads or builds what tests and the demo run besides our own binaries, and prints where
# it lies. With names as arguments it does so for these binaries only.
set -euo pipefail
source "$(dirname "$0")/progress.sh"

tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
go_build "what finds the Kubernetes binaries" "$tool/assets" ./test/framework/controlplane/cmd/assets
"$tool/assets" "$@"
