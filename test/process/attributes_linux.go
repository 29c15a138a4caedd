// SPDX-License-Identifier: Apache-2.0

package process

import "syscall"

// childAttributes makes the kernel kill the child when its parent dies in any way, kill -9 included.
// A process group of its own keeps a terminal's Ctrl-C from the child: the parent ends it in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
