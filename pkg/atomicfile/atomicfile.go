// SPDX-License-Identifier: Apache-2.0

// Package atomicfile owns the order of system calls by which a small file is
// replaced, extended or removed so that a crash at any instruction leaves the old
// state or the new. It never reads, and never decides what a file holds.
package atomicfile

import (
	"os"
	"path/filepath"
)

// FS is the part of a file system that a crash can come between. Tests stop or
// fail at its calls, before and after them.
type FS interface {
	// Write makes a file of mode 0600 with this content. It is on disk only after
	// Sync; of a crash before, any part of it may remain.
	Write(path string, content []byte) error
	// Append adds to a file that exists. The addition is on disk only after Sync;
	// of a crash before, any part of it may remain.
	Append(path string, content []byte) error
	// Sync puts the content of a file on disk.
	Sync(path string) error
	// Rename replaces what is at the new path at once. It is on disk only after
	// SyncDir.
	Rename(from, to string) error
	// Remove removes a name. It is on disk only after SyncDir.
	Remove(path string) error
	// SyncDir puts the names in a directory on disk.
	SyncDir(dir string) error
}

// suffix marks a file that was not finished.
const suffix = ".new"

// Replace gives a file a new content, durably. There may be one writer of a
// path at a time.
func Replace(fs FS, path string, content []byte) error {
	if err := fs.Write(path+suffix, content); err != nil {
		return err
	}
	if err := fs.Sync(path + suffix); err != nil {
		return err
	}
	if err := fs.Rename(path+suffix, path); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(path))
}

// Append adds to a file that exists, durably. After an error, or a crash, any
// part of the addition may be there.
func Append(fs FS, path string, content []byte) error {
	if err := fs.Append(path, content); err != nil {
		return err
	}
	return fs.Sync(path)
}

// Remove removes a file, durably. That there is none is an error that
// errors.Is fs.ErrNotExist.
func Remove(fs FS, path string) error {
	if err := fs.Remove(path); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(path))
}

// OS is the file system of the machine.
type OS struct{}

// Write is a create and a write.
func (OS) Write(path string, content []byte) error {
	return write(path, os.O_CREATE|os.O_TRUNC, content)
}

// Append is an open and a write.
func (OS) Append(path string, content []byte) error { return write(path, os.O_APPEND, content) }

func write(path string, flags int, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		_ = f.Close() // The first error says more.
		return err
	}
	return f.Close()
}

// Sync is an fsync.
func (OS) Sync(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return syncClose(f)
}

// Rename is a rename.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is an unlink.
func (OS) Remove(path string) error { return os.Remove(path) }

// SyncDir is an fsync of the directory.
func (OS) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return syncClose(f)
}

func syncClose(f *os.File) error {
	if err := f.Sync(); err != nil {
		_ = f.Close() // The first error says more.
		return err
	}
	return f.Close()
}
