// SPDX-License-Identifier: Apache-2.0

// Package process runs a real binary as a child: its log file, its readiness, its death.
// It owns the child from start to exit; no child outlives the process that started it.
// It never restarts anything: whoever wants that starts the same Spec again.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	pollInterval = 50 * time.Millisecond
	// logTail is what an error shows of a log: enough for the last lines of a panic or a usage text.
	logTail = 4 << 10
)

// Spec says what to run.
type Spec struct {
	// Name is what errors call the process.
	Name string
	// Path is the binary.
	Path string
	Args []string
	// Env is added to the environment of the parent.
	Env []string
	// LogFile takes stdout and stderr; a process that is started again goes on at its end.
	LogFile string
	// Ready is asked until it returns nil, or the process has ended. Nil means ready at once.
	Ready func(context.Context) error
}

// Process is a running or ended child.
type Process struct {
	Spec

	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// Start starts the process and waits until it is ready.
// The end of ctx ends the waiting, not a process that has become ready.
// A process that is not ready in time, or ends before, is killed; the error shows the end of its log.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(spec.LogFile), 0o755); err != nil {
		return nil, fmt.Errorf("make folder for log of %s: %w", spec.Name, err)
	}
	log, err := os.OpenFile(spec.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", spec.Name, err)
	}
	defer log.Close()

	p := &Process{Spec: spec, done: make(chan struct{})}
	// The life of the child is not bound to ctx, which bounds the start only.
	p.cmd = exec.Command(spec.Path, spec.Args...)
	p.cmd.Env = append(os.Environ(), spec.Env...)
	p.cmd.Stdout = log
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = childAttributes()

	if err := p.run(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	if err := p.waitReady(ctx); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%s: %w; end of its log %s:\n%s", spec.Name, err, spec.LogFile, p.tail())
	}
	return p, nil
}

// run starts the child from a thread that lives as long as the child does: the signal that the
// kernel sends on the parent's death (PR_SET_PDEATHSIG) is sent on the death of that thread.
func (p *Process) run() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return <-started
}

func (p *Process) waitReady(ctx context.Context) error {
	if p.Ready == nil {
		return nil
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := p.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("ended before it was ready: %w", p.exitError())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (%w)", err, ctx.Err())
		case <-tick.C:
		}
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID is the process id; it is good for signals only before Done is closed.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// ExitCode waits for the end and returns the exit code, or -1 if a signal ended the process.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal; to a process that has ended it is an error (os.ErrProcessDone).
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process with SIGKILL, also when it is stopped by SIGSTOP, and waits for its end.
func (p *Process) Kill() {
	// The only error is that it has ended already.
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end with SIGTERM and waits for its end; when ctx is done it is killed.
// The error says that it had to be killed, or that it ended with an exit code other than zero.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
		if p.err != nil && !endedBy(p.err, syscall.SIGTERM) {
			return fmt.Errorf("%s ended: %w", p.Name, p.err)
		}
		return nil
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("%s did not end on SIGTERM and was killed: %w", p.Name, ctx.Err())
	}
}

// Pause stops the process with SIGSTOP: it keeps its sockets and answers nothing, as a hung one does.
// It returns when all of its threads have stopped: on a busy machine some run on for a while.
func (p *Process) Pause() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return waitUntilStopped(p.PID())
}

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

func (p *Process) exitError() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

func (p *Process) tail() string {
	log, err := os.Open(p.LogFile)
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil && info.Size() > logTail {
		if _, err := log.Seek(-logTail, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	content, err := io.ReadAll(log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(content))
}

func endedBy(err error, sig syscall.Signal) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == sig
}
