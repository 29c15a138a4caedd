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
)

// up prints shell variables on stdout, progress on stderr.
func (s state) up(ctx context.Context) error {
	pid, err := s.supervisor()
	if err != nil {
		return err
	}
	if pid != 0 {
		fmt.Fprintln(os.Stderr, "  A demo is running already: it is used again.")
		return s.printVariables(ctx, s.stillRuns)
	}
	supervisor, err := s.startSupervisor(ctx)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = supervisor.Wait() // Why it ended is in the file with the progress.
		close(ended)
	}()
	err = s.printVariables(ctx, func() error {
		select {
		case <-ended:
			return fmt.Errorf("the start failed; logs are in %s", s.logDir())
		default:
			return nil
		}
	})
	if ctx.Err() != nil {
		// Interrupted while it starts: it is not wanted any more. An error is that it has ended by itself.
		_ = supervisor.Process.Signal(syscall.SIGTERM)
		<-ended
		return errors.Join(err, os.RemoveAll(s.runDir()))
	}
	return err
}

func (s state) startSupervisor(ctx context.Context) (*exec.Cmd, error) {
	if err := os.RemoveAll(s.runDir()); err != nil {
		return nil, fmt.Errorf("remove what an earlier demo left: %w", err)
	}
	if err := os.MkdirAll(s.logDir(), 0o700); err != nil {
		return nil, err
	}
	// The one who waits reads it at once.
	if err := os.WriteFile(s.progressFile(), nil, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(s.logDir(), "supervisor.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// A session of its own: the end of this terminal is not the end of the cluster.
	supervisor := exec.CommandContext(context.WithoutCancel(ctx), self, superviseCommand)
	supervisor.Stdout = log
	supervisor.Stderr = log
	supervisor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := supervisor.Start(); err != nil {
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	return supervisor, nil
}

// printVariables waits until the supervisor has written them, and meanwhile shows what it says.
func (s state) printVariables(ctx context.Context, check func() error) error {
	progress, err := os.Open(s.progressFile())
	if err != nil {
		return err
	}
	defer progress.Close()
	if content, err := os.ReadFile(s.variables()); err == nil {
		_, err = os.Stdout.Write(content)
		return err
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		failed := check()
		if _, err := io.Copy(os.Stderr, progress); err != nil {
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
		err = fmt.Errorf("the demo ended meanwhile; logs are in %s", s.logDir())
	}
	return err
}
