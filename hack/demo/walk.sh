#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# The walk of "make demo", on what "demo up" has started. What it prints after a "$" is what it runs.
set -Eeuo pipefail

scratch=$(mktemp -d)
watch_pid=
finish() {
  [[ -z $watch_pid ]] || kill "$watch_pid" 2>/dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT
trap 'echo "This failed: ${command:-$BASH_COMMAND}" >&2' ERR
cd "$scratch"

say() { if [[ -t 1 ]]; then printf '\n\033[1m# %s\033[0m\n' "$*"; else printf '\n# %s\n' "$*"; fi; }
run() {
  command=$*
  echo "\$ $command"
  eval "$command"
}
# in_vain runs what has to end with exit code 1: nothing found, or refused. grep prints nothing then.
in_vain() {
  local code=0
  command=$*
  echo "\$ $command"
  eval "$command" || code=$?
  if ((code != 1)); then
    echo "This should have ended with exit code 1, not $code." >&2
    return 1
  fi
  if [[ $command == grep* ]]; then
    echo "(nothing found: exit code 1)"
  fi
}
# until_seen waits until a file has a line with the pattern.
until_seen() {
  local pattern=$1 file=$2 deadline=$((SECONDS + 300))
  until grep -q -- "$pattern" "$file"; do
    if ((SECONDS > deadline)); then
      echo "No \"$pattern\" came within 5 minutes." >&2
      return 1
    fi
    sleep 0.1
  done
}
# Three passwords, and how they look in YAML. kubectl wait takes no value with a "=" in it.
password=(swordfish red-herrings white-whales)
encoded=()
for word in "${password[@]}"; do
  encoded+=("$(printf %s "$word" | base64)")
done

put_back='mv "$TOKEN/drawer/1-1" "$TOKEN/sys/bus/usb/devices"; mv "$TOKEN"/drawer/* "$TOKEN/tokens"; rmdir "$TOKEN/drawer"'

# What an earlier walk has left that was interrupted.
if [[ -d $TOKEN/drawer ]]; then
  eval "$put_back"
  kubectl wait --for=condition=Ready --timeout=5m --namespace hsm-system hsmpool/softhsm >/dev/null
fi
kubectl delete hsmsecret,secret db --ignore-not-found >/dev/null

say "The variables below, as \$TOKEN and \$ETCD, are set by $DEMO_DIR/run/variables.sh"
run 'sed "s/^export //" "$DEMO_DIR/run/variables.sh"'

say "What runs: etcd, a Kubernetes control plane, and a node that runs the programs of pods without containers."
run 'etcd --version | grep etcd'
run kubectl version
run kubectl get pods --namespace hsm-system
say "Files in a folder look to discovery like a USB stick. It has found the stick, and the controller runs an agent for it."
run kubectl get hsmdevices,hsmpools --namespace hsm-system

cat >db.yaml <<END
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata:
  name: db
stringData:
  username: app
  password: ${password[0]}
END
say "An HSMSecret is a Secret whose data lies on the token."
run cat db.yaml
run kubectl apply --server-side -f db.yaml
say "The controller makes a Secret of it, for programs that know nothing of tokens."
run kubectl wait --for=condition=Synced --timeout=5m hsmsecret/db
run kubectl get hsmsecrets
run kubectl get secret db
run "kubectl get secret db -o jsonpath='{.data.password}' | base64 --decode; echo"
say "A read of the HSMSecret asks the token, now."
run kubectl get hsmsecret db -o yaml
say "The same on the token's side: the agent is asked past Kubernetes. The data is a format byte, then each key and value after its length."
run demo read secrets/default/db

say "Edit the Secret. The editor is sed; the words are \"${password[0]}\" and \"${password[1]}\" in base64."
run "EDITOR='sed -i.bak s/${encoded[0]}/${encoded[1]}/' kubectl edit secret db"
say "The edit arrives on the token."
run "kubectl wait --for=jsonpath='{.data.password}'=${encoded[1]} --timeout=5m hsmsecret/db"
run demo read secrets/default/db
say "Edit the HSMSecret. The edit arrives in the Secret."
run "EDITOR='sed -i.bak s/${encoded[1]}/${encoded[2]}/' kubectl edit hsmsecret db"
run "kubectl wait --for=jsonpath='{.data.password}'=${encoded[2]} --timeout=5m secret/db"
run kubectl events --for hsmsecret/db

say "No password is readable in the files of the token, in the agent's state, or in any log."
patterns=
for word in "${password[@]}" "${encoded[@]}"; do
  patterns+=" -e $word"
done
in_vain "grep --recursive --text$patterns \"\$TOKEN\" \"\$AGENT_STATE\" \"\$LOGS\""
say "etcd has the Secret, as every Secret; it would not without a controller. It has no HSMSecret."
run "grep --recursive --text --files-with-matches ${password[2]} \"\$ETCD\""
in_vain 'grep --recursive --text hsmsecrets/default "$ETCD"'

say "Watch it while it changes."
command='kubectl get hsmsecrets --watch --output-watch-events'
echo "\$ $command &"
$command >watch.log 2>&1 &
watch_pid=$!
until_seen ADDED watch.log
run kubectl label hsmsecret db tier=backend
until_seen MODIFIED watch.log
kill "$watch_pid"
wait "$watch_pid" 2>/dev/null || true
watch_pid=
cat watch.log

say "A user without rights is refused, by the RBAC of the cluster."
in_vain 'KUBECONFIG=$VISITOR kubectl get hsmsecret db'

say "Pull the stick out: the kernel's entry of it, and what is on it."
run 'mkdir "$TOKEN/drawer"; mv "$TOKEN/sys/bus/usb/devices/1-1" "$TOKEN"/tokens/* "$TOKEN/drawer"'
run kubectl wait --for=condition=Ready=false --timeout=5m --namespace hsm-system hsmpool/softhsm
say "A read is refused, and says why. It does not say that the HSMSecret is gone, and the Secret stays."
in_vain kubectl get hsmsecret db -o yaml
run kubectl get secret db
say "Put it back."
run "$put_back"
run kubectl wait --for=condition=Ready --timeout=5m --namespace hsm-system hsmpool/softhsm
run "kubectl get hsmsecret db -o jsonpath='{.data.password}' | base64 --decode; echo"

say "Delete it. The Secret goes with it."
run kubectl delete hsmsecret db
run kubectl wait --for=delete --timeout=5m secret/db
in_vain kubectl get hsmsecret db
