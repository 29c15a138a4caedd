// SPDX-License-Identifier: Apache-2.0

//go:build unix && !linux

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// forbidCoreDumps keeps PIN, keys and values out of core files.
func forbidCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: setrlimit: %w", err)
	}
	return nil
}
