#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Installs what building and testing need beyond Go: a C compiler, make, git, and SoftHSM 2.
# On Debian and its children by apt-get; elsewhere it says what to install, and fails.
set -euo pipefail

debian_packages=()
need() { debian_packages+=("$@"); }

has_softhsm() {
  local path
  for path in "${SOFTHSM2_MODULE:-}" \
    /usr/lib/softhsm/libsofthsm2.so /usr/lib64/softhsm/libsofthsm.so /usr/lib64/pkcs11/libsofthsm2.so \
    /usr/lib/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so \
    /opt/homebrew/lib/softhsm/libsofthsm2.so /home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so; do
    [[ -n $path && -e $path ]] && return 0
  done
  return 1
}

compiles_c() { echo '#include <stdlib.h>' | "${CC:-gcc}" -xc -fsyntax-only - 2>/dev/null; }

# What go says of a newer toolchain that it downloads is shown.
if ! { command -v go && go version; } >/dev/null; then
  echo "Go is missing, or older than go.mod asks for: install Go $(sed -n 's/^go //p' go.mod) or newer (any since 1.21 fetches the right one by itself)." >&2
  exit 1
fi
compiles_c || need gcc libc6-dev
{ has_softhsm && command -v softhsm2-util >/dev/null; } || need softhsm2
command -v git >/dev/null || need git
command -v make >/dev/null || need make

if ((${#debian_packages[@]} == 0)); then
  exit 0
fi

if command -v apt-get >/dev/null; then
  as_root=()
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "Packages are missing. As root: apt-get install ${debian_packages[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "Installing ${debian_packages[*]}."
  "${as_root[@]}" apt-get update --quiet --quiet
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --quiet --quiet --no-install-recommends "${debian_packages[@]}" >/dev/null
  exit 0
fi

cat >&2 <<'END'
A C compiler with its headers, make, git and SoftHSM 2 are needed, and not all of them are here. Install them:
  Fedora    dnf install gcc glibc-devel make git softhsm
  openSUSE  zypper install gcc glibc-devel make git softhsm
  Arch      pacman -S gcc make git softhsm
  Alpine    apk add gcc musl-dev make git softhsm
  macOS     xcode-select --install; brew install softhsm
If SoftHSM's library lies in an unusual place, set SOFTHSM2_MODULE to its path.
END
exit 1
