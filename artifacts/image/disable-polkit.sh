#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# disable-polkit.sh PCSCD: makes a pcscd that asks polkit start without it. In a container no
# polkit runs, and such a pcscd refuses every client. Debian's pcscd asks polkit since trixie;
# the one of bookworm does not know the flag, and is left as it is.

set -eu

pcscd=$1
# The program's own table of options, as its help need not list all of them.
if grep --quiet --text disable-polkit "$pcscd"; then
    mv "$pcscd" "$pcscd.real"
    printf '#!/bin/sh\nexec %s --disable-polkit "$@"\n' "$pcscd.real" >"$pcscd"
    chmod 0755 "$pcscd"
fi
