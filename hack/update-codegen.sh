#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Regenerates all generated code: helpers of the API types, OpenAPI, clients and
# the agent's protobuf code. The generators are those that go.mod and
# hack/tools/buf/go.mod pin; nothing else has to be installed.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

module=$(go list -m)
boilerplate=${PWD}/hack/boilerplate.go.txt

# kube_codegen.sh installs the generators; not among the user's own binaries.
export GOBIN=${XDG_CACHE_HOME:-${HOME}/.cache}/hsm/bin
mkdir -p "${GOBIN}"

scratch=$(mktemp -d)
trap 'rm -rf "${scratch}"' EXIT
# kube_codegen.sh leaves files behind.
export TMPDIR=${scratch}

# In an empty module cache "go list" gives no folder.
go mod download k8s.io/code-generator
# shellcheck source=/dev/null
source "$(go list -m -f '{{.Dir}}' k8s.io/code-generator)/kube_codegen.sh"

# Packages, other than ours, whose tags validation-gen reads. Without metav1: the
# functions which its tags name are not found outside of the Kubernetes tree. Our
# fields of its types are +k8s:opaqueType.
(
    KUBE_CODEGEN_READONLY_PKGS=(k8s.io/apimachinery/pkg/types)
    kube::codegen::gen_helpers --boilerplate "${boilerplate}" pkg/apis
)

# The report has the violations of the API rules, of other packages too.
kube::codegen::gen_openapi \
    --output-dir pkg/generated/openapi \
    --output-pkg "${module}/pkg/generated/openapi" \
    --output-model-name-file zz_generated.model_name.go \
    --report-filename "${scratch}/violations" --update-report \
    --boilerplate "${boilerplate}" \
    pkg/apis
# Ours must be these. In Go the four names end in ID, but manifests have long been
# written with Id; and the rule does not understand the digits of PKCS11.
if ! diff - <(grep "${module}" "${scratch}/violations") <<EOF
API rule violation: names_match,${module}/pkg/apis/hsm/v1alpha1,HSMDeviceSpec,PKCS11
API rule violation: names_match,${module}/pkg/apis/hsm/v1alpha1,PKCS11,SlotID
API rule violation: names_match,${module}/pkg/apis/hsm/v1alpha1,PoolMember,StoreID
API rule violation: names_match,${module}/pkg/apis/hsm/v1alpha1,USBDiscovery,ProductID
API rule violation: names_match,${module}/pkg/apis/hsm/v1alpha1,USBDiscovery,VendorID
EOF
then
    echo "The API types break other rules than before (k8s.io/kube-openapi/pkg/generators/rules): change the types." >&2
    exit 1
fi

go run ./pkg/generated/openapi/cmd/models-schema >"${scratch}/schema.json"
kube::codegen::gen_client \
    --with-watch \
    --with-applyconfig \
    --applyconfig-openapi-schema "${scratch}/schema.json" \
    --output-dir pkg/generated \
    --output-pkg "${module}/pkg/generated" \
    --boilerplate "${boilerplate}" \
    pkg/apis

go tool -modfile=hack/tools/buf/go.mod buf generate
