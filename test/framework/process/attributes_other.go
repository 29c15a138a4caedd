// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package process

import "syscall"

// childAttributes leaves the child in the parent's process group: where the kernel has no signal
// on a parent's death, what ends the group (a terminal, a shell) ends the child as well.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// waitUntilStopped cannot tell here.
func waitUntilStopped(int) error { return nil }
