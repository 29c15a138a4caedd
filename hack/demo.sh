#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Walks through the main job on a real cluster of this machine. What it prints after a "$" is what it runs.
# The cluster goes on until "make down"; with DEMO_EXIT=1 it ends with the walk.
set -euo pipefail

tools=$(mktemp -d)
watch_pid=
finish() {
  local code=$?
  [[ -z $watch_pid ]] || kill "$watch_pid" 2>/dev/null || true
  if [[ ${DEMO_EXIT:-} == 1 && -x $tools/demo ]]; then
    "$tools/demo" down || code=1
  elif ((code != 0)); then
    echo "The demo has failed; the lines above say where. Logs: ${LOG_DIR:-none yet}. \"make down\" ends what runs." >&2
  fi
  rm -rf "$tools"
  exit "$code"
}
trap finish EXIT

bold() { if [[ -t 1 ]]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
say() { bold "# $*"; }
run() {
  echo "\$ $*"
  eval "$*"
}
# in_vain runs what has to end with exit code 1: nothing found, or refused.
in_vain() {
  local code=0
  echo "\$ $*"
  eval "$*" || code=$?
  if ((code != 1)); then
    echo "This should have ended with exit code 1, not $code." >&2
    exit 1
  fi
}
# until_seen waits until a file has a line with the pattern.
until_seen() {
  local pattern=$1 file=$2 deadline=$((SECONDS + 30))
  until grep -q -- "$pattern" "$file"; do
    if ((SECONDS > deadline)); then
      echo "No \"$pattern\" came within 30 seconds." >&2
      exit 1
    fi
    sleep 0.1
  done
}

echo "Building, and starting etcd, kube-apiserver, an agent with a SoftHSM token, and our API server."
go build -o "$tools/demo" ./hack/demo
variables=$("$tools/demo" up)
eval "$variables"
export PATH=$KUBECTL_DIR:$tools:$PATH
cd "$tools"
# It may be there from an earlier walk that was interrupted.
kubectl delete hsmsecret db --ignore-not-found >/dev/null

cat >db.yaml <<'END'
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata:
  name: db
stringData:
  username: app
  password: correct horse
END

say "An HSMSecret is a Secret whose data lies on a hardware security module."
run cat db.yaml
run kubectl apply --server-side -f db.yaml
run kubectl get hsmsecrets

say "A read asks the token, now."
run kubectl get hsmsecret db -o yaml

say "The same value on the token's side, asked of the agent past Kubernetes."
run demo read secrets/default/db

say "In the clear it is nowhere: not in etcd, not in the files of the token, not in the logs."
in_vain 'grep --recursive --text -e "correct horse" -e Y29ycmVjdCBob3JzZQ "$ETCD_DIR" "$TOKEN_DIR" "$LOG_DIR"'

say "Edit it as any object. The editor is sed; the words are \"correct horse\" and \"battery staple\" in base64."
run EDITOR="'sed -i.bak s/Y29ycmVjdCBob3JzZQ==/YmF0dGVyeSBzdGFwbGU=/'" kubectl edit hsmsecret db
run "kubectl get hsmsecret db -o jsonpath='{.data.password}' | base64 --decode; echo"

say "Watch it while it changes."
echo "\$ kubectl get hsmsecrets --watch --output-watch-events &"
kubectl get hsmsecrets --watch --output-watch-events >watch.log 2>&1 &
watch_pid=$!
until_seen ADDED watch.log
run kubectl label hsmsecret db tier=backend
until_seen MODIFIED watch.log
kill "$watch_pid"
wait "$watch_pid" 2>/dev/null || true
watch_pid=
cat watch.log

say "A user without rights is refused, by the RBAC of the cluster."
in_vain 'KUBECONFIG=$VISITOR_KUBECONFIG kubectl get hsmsecret db'

say "Delete it."
run kubectl delete hsmsecret db
in_vain kubectl get hsmsecret db

say "Done: applied, read live, edited, watched, refused and deleted, through a real kube-apiserver and a PKCS#11 token."
if [[ ${DEMO_EXIT:-} != 1 ]]; then
  cat <<END
The cluster goes on. To use it:
  export KUBECONFIG='$KUBECONFIG'
  export PATH='$KUBECTL_DIR':\$PATH
  kubectl explain hsmsecret.spec
  kubectl get hsmsecrets --all-namespaces
Logs lie in $LOG_DIR. "make down" ends it all.
END
fi
