// SPDX-License-Identifier: Apache-2.0

package assets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// quietTime is how long a build may take before it is worth a word, tellInterval how
	// often it is told then how far it is.
	quietTime      = time.Second
	tellInterval   = 10 * time.Second
	lockRetryDelay = 200 * time.Millisecond
)

type goBuild struct {
	name   string // for messages
	dir    string
	output string
	env    []string
	args   []string // flags, and the package
}

// build runs go build and writes to progress how far it is.
func build(ctx context.Context, progress io.Writer, b goBuild) error {
	cmd := b.command(ctx, "build", "-v", "-buildvcs=false", "-o", b.output)
	log := &buildLog{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build %s: %w", b.name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	began := time.Now()
	tick := time.NewTicker(quietTime)
	defer tick.Stop()
	told := false
	for {
		select {
		case <-tick.C:
			if !told {
				fmt.Fprintf(progress, "Building %s.\n", b.name)
				go func() { log.setTotal(b.outdated(ctx)) }()
				tick.Reset(tellInterval)
				told = true
				continue
			}
			fmt.Fprintf(progress, "%s: %s in %s.\n", b.name, log.progress(), time.Since(began).Round(time.Second))
		case err := <-done:
			if err != nil {
				return fmt.Errorf("build %s: %w\n%s", b.name, err, log.tail())
			}
			if told {
				fmt.Fprintf(progress, "Built %s in %s.\n", b.name, time.Since(began).Round(time.Second))
			}
			return nil
		}
	}
}

func (b goBuild) command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{verb}, args, b.args)...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), append([]string{"GOWORK=off"}, b.env...)...)
	return cmd
}

// outdated counts the packages that the build still has to compile. It is 0 if that is not known:
// the count is for people, and the build says by itself what is wrong.
func (b goBuild) outdated(ctx context.Context) int {
	out, err := b.command(ctx, "list", "-deps", "-f",
		`{{if and .Stale (ne .StaleReason "not installed but available in build cache")}}{{.ImportPath}}{{end}}`).Output()
	if err != nil {
		return 0
	}
	return len(strings.Fields(string(out)))
}

// buildLog keeps what go build -v prints: a line for each module that it downloads and each package
// that it compiles, and errors.
type buildLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
	// total is how many packages are to be compiled, 0 if that is not known.
	total int
}

func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// setTotal takes how many packages are left to be compiled from now on.
func (l *buildLog) setTotal(left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, compiled := l.count(); left > 0 {
		l.total = compiled + left
	}
}

// progress says how far the build is, as in "3 modules downloaded, 12 of 800 packages compiled".
func (l *buildLog) progress() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	modules, packages := l.count()
	text := strconv.Itoa(packages)
	if l.total > 0 {
		text += fmt.Sprintf(" of %d", max(l.total, packages))
	}
	text += " packages compiled"
	if modules > 0 {
		text = fmt.Sprintf("%d modules downloaded, %s", modules, text)
	}
	return text
}

func (l *buildLog) count() (modules, packages int) {
	modules = bytes.Count(l.buf.Bytes(), []byte("go: downloading "))
	return modules, bytes.Count(l.buf.Bytes(), []byte("\n")) - modules
}

func (l *buildLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.buf.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// Checkout is the folder of the module in which this process runs.
func Checkout(ctx context.Context) (string, error) {
	file, err := output(ctx, "", "go", "env", "GOMOD")
	if err != nil {
		return "", fmt.Errorf("find the module's folder: %w", err)
	}
	if file == "" || file == os.DevNull {
		return "", errors.New("find the module's folder: run this inside a checkout of the module")
	}
	return filepath.Dir(file), nil
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache folder: %w", err)
	}
	dir = filepath.Join(dir, "hsm")
	return dir, os.MkdirAll(dir, 0o755)
}

// lock takes a lock that all processes of this user share, and that ends with the process at the latest.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("wait for another process that holds %s: %w", file.Name(), ctx.Err())
		case <-time.After(lockRetryDelay):
		}
	}
}

// output runs a command and returns its stdout, trimmed; the error carries the last line of stderr.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, lines[len(lines)-1])
	}
	return strings.TrimSpace(string(out)), nil
}
