#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs the whole product on this machine and walks through the main job ("make demo"); with the argument "down" it ends
# it ("make down"). DEMO_DIR takes all that it writes: by default a folder in the user's cache folder.
set -euo pipefail

cd "$(dirname "$0")/.."
source hack/progress.sh
export DEMO_DIR=${DEMO_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/hsm/demo}
export PATH=$DEMO_DIR/bin:$PATH

if [[ ${1:-} == down ]]; then
  if [[ -x $DEMO_DIR/bin/demo ]]; then
    exec demo down
  fi
  echo "No demo is running."
  exit 0
fi

failed() {
  echo
  echo "The demo failed while $doing; the lines above say why."
  if [[ -d $DEMO_DIR/run/logs ]]; then
    echo "Logs are in $DEMO_DIR/run/logs. \"make down\" ends what runs, and removes them."
  fi
} >&2
trap failed ERR
step() {
  doing=$2
  echo "[$1/4] ${2^}."
}

echo "This starts a Kubernetes control plane and the whole product on this machine, with a token in software (SoftHSM)."
echo "The first time, programs are downloaded or built, which can take many minutes. After that it takes about half a minute, and"
echo "longer when the code has changed and is compiled again."
step 1 "looking for Go, a C compiler, git and SoftHSM 2"
hack/ensure-packages.sh
step 2 "compiling the command that starts it all"
mkdir -p "$DEMO_DIR/bin"
# With the tags of the product, whose packages it shares.
go_build demo "$DEMO_DIR/bin/demo" -tags=grpcnotrace -ldflags="-s -w" ./hack/demo
step 3 "starting the cluster and the product"
variables=$(demo up)
eval "$variables"
step 4 "walking through the main job"
hack/demo/walk.sh

cat <<END

Done. What was shown, through a real kube-apiserver and a PKCS#11 token:
  - an HSMSecret was applied, and read live from the token
  - the controller made a Secret of it, and kept the two in step: an edit of either arrived at the other
  - a watch, a refusal by RBAC, and a token that was pulled out and put back: no secret was lost or called absent
  - its deletion took the Secret with it

It goes on running. In this or another terminal, set the variables of the walk (\$KUBECONFIG, \$TOKEN, \$ETCD and so on), and go to the checkout:
  source '$DEMO_DIR/run/variables.sh'
  export PATH='$DEMO_DIR/bin':\$PATH
  cd '$PWD'
Then try:
  kubectl explain hsmsecret.spec
  kubectl apply --server-side -f artifacts/samples/hsmsecret.yaml
  kubectl get hsmsecrets,secrets
  demo read secrets/default/database
  kubectl get hsmpool softhsm --namespace hsm-system -o yaml
Logs of all processes are in $LOGS ("kubectl logs" needs a real kubelet).
To stop it and to remove what this run wrote:
  make down
Programs stay in ${XDG_CACHE_HOME:-$HOME/.cache}/hsm for the next time. "make clean" removes those that were built from this checkout.
END
