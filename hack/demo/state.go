// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// state is the folder of a demo. Only the supervisor holds the lock, for as long as it lives.
type state struct{ dir string }

func (s state) lockFile() string { return filepath.Join(s.dir, "lock") }

// binDir has the commands that the walk uses.
func (s state) binDir() string { return filepath.Join(s.dir, "bin") }

// runDir takes all that one run writes.
func (s state) runDir() string { return filepath.Join(s.dir, "run") }

// logDir has the logs of all processes. That of the supervisor has what it does with pods.
func (s state) logDir() string { return filepath.Join(s.runDir(), "logs") }

// progressFile takes what the supervisor tells the person who waits, variables the result.
func (s state) progressFile() string { return filepath.Join(s.runDir(), "progress") }
func (s state) variables() string    { return filepath.Join(s.runDir(), "variables.sh") }

// remove leaves alone what else may be in the folder.
func (s state) remove() error {
	err := errors.Join(os.RemoveAll(s.runDir()), os.RemoveAll(s.binDir()), os.Remove(s.lockFile()))
	_ = os.Remove(s.dir) // It has something else in it, if it cannot be removed.
	return err
}

// wholeFile is a lock on it. The kernel knows who holds one, and ends it with its holder (fcntl(2)).
var wholeFile = syscall.Flock_t{Type: syscall.F_WRLCK}

// supervisor returns the process id of the running supervisor, or 0.
func (s state) supervisor() (int, error) {
	file, err := s.openLock()
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lock := wholeFile
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("look at the lock of %s: %w", file.Name(), err)
	}
	if lock.Type == syscall.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// lock makes this process the supervisor until the file is closed.
func (s state) lock() (io.Closer, error) {
	file, err := s.openLock()
	if err != nil {
		return nil, err
	}
	lock := wholeFile
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &lock); err != nil {
		file.Close()
		return nil, fmt.Errorf("another demo is starting: %w", err)
	}
	return file, nil
}

func (s state) openLock() (*os.File, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(s.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
}
