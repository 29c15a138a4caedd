// SPDX-License-Identifier: Apache-2.0

// Package faultfs is an atomicfile.FS for crash tests: it stops the machine at a
// given call, and loses what was not on disk by then. It works on real files
// and never decides what a test makes of them.
package faultfs

import (
	"errors"
	"io/fs"
	"os"

	"j5t.io/hsm/pkg/atomicfile"
)

// ErrStopped is what every call returns after the stop.
var ErrStopped = errors.New("the machine has stopped")

// Moment is when a call is cut off.
type Moment int

const (
	// Before: nothing of the call happened.
	Before Moment = iota
	// Halfway: of a Write or an Append, half the content is there; of other calls,
	// as Before.
	Halfway
	// After: the call happened, but its caller never learnt of it.
	After
)

// FS counts its calls and stops at one of them. It is used by one goroutine.
type FS struct {
	at      int
	moment  Moment
	calls   int
	stopped bool
	undo    []func() // Of name changes that no SyncDir followed, oldest first.
	// unsynced is files whose content is not on disk, and what is there of them instead.
	unsynced map[string][]byte
}

// New returns a file system that stops at the call of this number, from 1; 0 is
// never.
func New(at int, moment Moment) *FS {
	return &FS{at: at, moment: moment, unsynced: map[string][]byte{}}
}

// StopAt stops at a call, counted from now; 0 is never.
func (f *FS) StopAt(call int, moment Moment) {
	f.at, f.moment = 0, moment
	if call > 0 {
		f.at = f.calls + call
	}
}

// Calls is the number of calls so far.
func (f *FS) Calls() int { return f.calls }

// Stopped reports whether the machine has stopped.
func (f *FS) Stopped() bool { return f.stopped }

// Stop stops the machine now: names that were changed since the last SyncDir,
// and files that were appended to since their last Sync, are as before, as after
// a loss of power. A file that was written and never synced is empty.
func (f *FS) Stop() {
	f.stopped = true
	for path, durable := range f.unsynced {
		must(os.WriteFile(path, durable, 0o600))
	}
	clear(f.unsynced)
	for len(f.undo) > 0 {
		last := len(f.undo) - 1
		f.undo[last]()
		f.undo = f.undo[:last]
	}
}

// call makes a call, or the part of it that the stop leaves.
func (f *FS) call(whole, half func() error) error {
	if f.stopped {
		return ErrStopped
	}
	f.calls++
	if f.at == 0 || f.calls != f.at {
		return whole()
	}
	var err error
	switch f.moment {
	case Halfway:
		err = half()
	case After:
		err = whole()
	}
	f.Stop()
	return errors.Join(ErrStopped, err)
}

func nothing() error { return nil }

// Write makes a file, or half of it, until the next Sync only in memory.
func (f *FS) Write(path string, content []byte) error {
	write := func(content []byte) func() error {
		return func() error { return os.WriteFile(path, content, 0o600) }
	}
	return f.call(func() error {
		f.unsynced[path] = nil
		return write(content)()
	}, write(content[:len(content)/2]))
}

// Append adds to a file, until the next Sync only in memory.
func (f *FS) Append(path string, content []byte) error {
	return f.call(func() error {
		if _, unsynced := f.unsynced[path]; !unsynced {
			durable, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f.unsynced[path] = durable
		}
		return atomicfile.OS{}.Append(path, content)
	}, func() error { return atomicfile.OS{}.Append(path, content[:len(content)/2]) })
}

// Sync puts the content of a file on disk.
func (f *FS) Sync(path string) error {
	return f.call(func() error {
		delete(f.unsynced, path)
		return nil
	}, nothing)
}

// Rename renames, until the next SyncDir only in memory.
func (f *FS) Rename(from, to string) error {
	return f.call(func() error {
		delete(f.unsynced, to) // What was there is gone.
		if durable, unsynced := f.unsynced[from]; unsynced {
			f.unsynced[to] = durable
			delete(f.unsynced, from)
		}
		restoreTo, restoreFrom := keep(to), keep(from)
		f.undo = append(f.undo, func() { restoreTo(); restoreFrom() })
		return os.Rename(from, to)
	}, nothing)
}

// Remove removes, until the next SyncDir only in memory.
func (f *FS) Remove(path string) error {
	return f.call(func() error {
		delete(f.unsynced, path)
		f.undo = append(f.undo, keep(path))
		return os.Remove(path)
	}, nothing)
}

// SyncDir puts the name changes so far on disk. The directory is taken to be
// the only one.
func (f *FS) SyncDir(string) error {
	return f.call(func() error {
		f.undo = nil
		return nil
	}, nothing)
}

// keep returns a function that puts a file back as it is now.
func keep(path string) func() {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return func() { must(ignoreAbsent(os.Remove(path))) }
	}
	must(err)
	return func() { must(os.WriteFile(path, content, 0o600)) }
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// must is for what only a broken test machine makes fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
