#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Fails if generated code is not what hack/update-codegen.sh makes of its sources.
# It generates in a copy: the working tree is not touched.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

generated=(pkg/apis pkg/generated pkg/agent/api)

copy=$(mktemp -d)
trap 'rm -rf "${copy}"' EXIT

cp -R --parents go.mod go.sum buf.yaml buf.gen.yaml hack "${generated[@]}" "${copy}"
if ! "${copy}/hack/update-codegen.sh" >"${copy}/log" 2>&1; then
    cat "${copy}/log" >&2
    echo "hack/update-codegen.sh fails, see above." >&2
    exit 1
fi

current=true
for folder in "${generated[@]}"; do
    diff -Naur "${folder}" "${copy}/${folder}" || current=false
done
if [[ ${current} == false ]]; then
    echo "Generated code is out of date (above: - is there, + should be). Run hack/update-codegen.sh and commit the result." >&2
    exit 1
fi

go tool -modfile=hack/tools/buf/go.mod buf lint
echo "Generated code is up to date."
