# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash

# Sourced by scripts that compile: their user sees from the first second what is done and how far it
# is, in whole lines, on a terminal and in a log alike.

readonly progress_interval=5

# go_build NAME OUTPUT FLAGS-AND-PACKAGES... is go build, into the file OUTPUT unless that is empty.
go_build() {
  local name=$1 output=$2
  shift 2
  echo "Building $name."
  { outdated "$@" && go build -v ${output:+-o "$output"} "$@"; } 2>&1 | show_progress "$name"
}

# go_compile_tests NAME FLAGS-AND-PACKAGES... compiles packages and their tests, as go test then does
# without a word.
go_compile_tests() {
  local name=$1
  shift
  echo "Building $name."
  { outdated -test "$@" && go list -test -deps -export -v "$@" >/dev/null; } 2>&1 | show_progress "$name"
}

# outdated prints how many packages have to be compiled.
outdated() {
  go list -deps -f '{{if and .Stale (ne .StaleReason "not installed but available in build cache")}}{{.ImportPath}}{{end}}' "$@" |
    awk 'NF { n++ } END { print "outdated " n + 0 }'
}

# show_progress reads what a go command with -v prints: modules that it downloads, packages that it
# compiles, and errors, which it passes on.
show_progress() {
  local name=$1 began=$SECONDS next=$((SECONDS + progress_interval)) status
  local line='' part modules=0 packages=0 total=0 shown=0
  while true; do
    status=0
    IFS= read -r -t "$((next > SECONDS ? next - SECONDS : 1))" part || status=$?
    line+=$part # The time may be over in the middle of a line.
    if ((status == 0)); then
      case $line in
        "go: downloading "*) modules=$((modules + 1)) ;;
        "outdated "*) total=${line#outdated } ;;
        "") ;;
        *[[:space:]]*[!]]) printf '%s\n' "$line" ;; # Not an import path: an error.
        *) packages=$((packages + 1)) ;;
      esac
      line=''
    fi
    if ((status > 0 && status <= 128)); then # The end, and not the time.
      ((shown == 0 && modules + packages == 0)) || progress_line "$name"
      return
    fi
    if ((SECONDS >= next)); then
      progress_line "$name"
      shown=1 next=$((SECONDS + progress_interval))
    fi
  done
}

# progress_line uses the variables of show_progress.
progress_line() {
  local what=()
  ((modules == 0)) || what+=("$modules modules downloaded")
  if ((total > 0)); then what+=("$packages of $total packages compiled"); fi
  ((${#what[@]} > 0)) || what=("looking for what to compile")
  local text
  text=$(IFS=';' && echo "${what[*]}")
  echo "$1: ${text//;/, } in $((SECONDS - began)) s."
}
