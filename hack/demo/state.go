// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	superviseCommand = "supervise"
	pollInterval     = 100 * time.Millisecond
	// stopTimeout is how long a supervisor may take to end its children before it is killed.
	stopTimeout = 20 * time.Second
)

// wholeFile is a lock on it. The kernel tells who holds one, and ends it with its holder (fcntl(2)).
var wholeFile = syscall.Flock_t{Type: syscall.F_WRLCK}

// state is what the demo keeps between its commands. Only the supervisor holds the lock, for as long
// as it lives.
type state struct{ dir string }

func (s state) lockFile() string      { return s.dir + ".lock" }
func (s state) variables() string     { return filepath.Join(s.dir, "variables.sh") }
func (s state) clusterDir() string    { return filepath.Join(s.dir, "cluster") }
func (s state) supervisorLog() string { return filepath.Join(s.dir, "supervisor.log") }

// up prints shell variables on stdout, progress on stderr.
func (s state) up(ctx context.Context) error {
	pid, err := s.supervisor()
	if err != nil {
		return err
	}
	if pid != 0 {
		fmt.Fprintln(os.Stderr, "The cluster of an earlier demo is running: it is used again. \"make down\" ends it.")
		if content, err := os.ReadFile(s.variables()); err == nil {
			_, err = os.Stdout.Write(content)
			return err
		}
		return s.printVariables(ctx, s.stillRuns)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove what an earlier demo left: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(s.supervisorLog())
	if err != nil {
		return err
	}
	defer log.Close()
	// A session of its own: the end of this terminal is not the end of the cluster.
	supervisor := exec.CommandContext(context.WithoutCancel(ctx), self, superviseCommand)
	supervisor.Stdout = log
	supervisor.Stderr = log
	supervisor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := supervisor.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	var end error
	ended := make(chan struct{})
	go func() {
		end = supervisor.Wait()
		close(ended)
	}()
	err = s.printVariables(ctx, func() error {
		select {
		case <-ended:
			return fmt.Errorf("the cluster did not start: %w", end)
		default:
			return nil
		}
	})
	if ctx.Err() != nil {
		// Interrupted while it starts: it is not wanted any more. An error is that it has ended by itself.
		_ = supervisor.Process.Signal(syscall.SIGTERM)
		<-ended
		return errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// printVariables waits until the supervisor has written them, and meanwhile shows what it says.
func (s state) printVariables(ctx context.Context, check func() error) error {
	log, err := os.Open(s.supervisorLog())
	if err != nil {
		return err
	}
	defer log.Close()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		failed := check()
		if _, err := io.Copy(os.Stderr, log); err != nil {
			return err
		}
		if failed != nil {
			return failed
		}
		content, err := os.ReadFile(s.variables())
		if err == nil {
			_, err = os.Stdout.Write(content)
			return err
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s state) stillRuns() error {
	pid, err := s.supervisor()
	if err == nil && pid == 0 {
		err = errors.New("the cluster ended meanwhile")
	}
	return err
}

// down ends the supervisor, which ends its children, and removes what they wrote.
func (s state) down(ctx context.Context) error {
	pid, err := s.supervisor()
	if err != nil {
		return err
	}
	if pid == 0 {
		fmt.Println("No demo is running.")
		return os.RemoveAll(s.dir)
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
			fmt.Println("The demo's cluster has ended, and all that it wrote is removed.")
			return os.RemoveAll(s.dir)
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
	if err := os.MkdirAll(filepath.Dir(s.lockFile()), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(s.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
}
