// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// stopTimeout is how long a supervisor may take to end its children before it is killed.
const stopTimeout = 20 * time.Second

// down ends the supervisor, which ends its children, and removes what they wrote.
func (s state) down(ctx context.Context) error {
	pid, err := s.supervisor()
	if err != nil {
		return err
	}
	if pid == 0 {
		fmt.Println("No demo is running.")
		return s.remove()
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the supervisor, process %d: %w", pid, err)
	}
	deadline := time.Now().Add(stopTimeout)
	for {
		running, err := s.supervisor()
		if err != nil {
			return err
		}
		if running == 0 {
			fmt.Println("The demo has ended, and what it wrote while it ran is removed. Programs stay for the next time; \"make clean\" removes those of this checkout.")
			return s.remove()
		}
		if time.Now().After(deadline) {
			// The kernel ends its children with it.
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill the supervisor, process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}
