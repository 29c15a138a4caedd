// SPDX-License-Identifier: Apache-2.0

// Package wal owns the write-ahead log beside a token: the file (its name is
// "shadow") in which an agent notes what the token is going to hold, before it
// touches the token. The segments in it are sealed as on the token; together they
// are a copy of the store.
//
// The log is entries with checksums. Kind says what there is; ReplayOf makes one
// Replay of them. The package never opens what is sealed, and never decides whether
// the log or the token is right.
package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"j5t.io/hsm/pkg/atomicfile"
)

// Log is one log file. It has one user, and is used by one goroutine at a time.
type Log struct {
	fs   atomicfile.FS
	path string
	// whole is how many bytes of the file count; what follows is torn.
	whole int
	torn  bool
}

// New returns the log at a path, which need not exist yet; its directory must.
func New(fs atomicfile.FS, path string) *Log { return &Log{fs: fs, path: path} }

// UncertainError is an error after which it is not known whether entries were
// added. The file has to be read again.
type UncertainError struct{ error }

func (e UncertainError) Unwrap() error { return e.error }

// Read returns all whole entries. A torn tail is left out; that there is no file
// is no error.
func (l *Log) Read() ([]Entry, error) {
	content, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the token's write-ahead log: %w", err)
	}
	entries, whole, err := decode(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w. Use the version that wrote it, or move it away", l.path, err)
	}
	l.whole, l.torn = whole, whole < len(content)
	return entries, nil
}

// Replay reads the log and says what is in it.
func (l *Log) Replay() (*Replay, error) {
	entries, err := l.Read()
	if err != nil {
		return nil, err
	}
	return ReplayOf(entries)
}

// Torn reports whether there is more in the file than Read returned.
func (l *Log) Torn() bool { return l.torn }

// Size is the length of the file in bytes.
func (l *Log) Size() int { return l.whole }

// Append adds entries. When it returns, they are on disk. After an error none of
// them is or ever will be, unless it is an UncertainError.
func (l *Log) Append(entries ...Entry) error {
	added := encode(nil, entries)
	if l.whole == 0 || l.torn {
		return l.rewrite(added)
	}
	if err := atomicfile.Append(l.fs, l.path, added); err != nil {
		l.torn = true
		err = fmt.Errorf("writing the token's write-ahead log: %w", err)
		if again := l.rewrite(nil); again != nil {
			return UncertainError{errors.Join(err, again)}
		}
		return err
	}
	l.whole += len(added)
	return nil
}

// rewrite replaces the file by what of it counts, and more.
func (l *Log) rewrite(added []byte) error {
	content := fileHeader()
	if l.whole > 0 {
		old, err := os.ReadFile(l.path)
		if err != nil {
			return UncertainError{fmt.Errorf("reading the token's write-ahead log: %w", err)}
		}
		content = old[:min(l.whole, len(old))]
	}
	return l.replace(append(content, added...))
}

// Replace gives the file these entries and no others.
func (l *Log) Replace(entries []Entry) error { return l.replace(encode(fileHeader(), entries)) }

func (l *Log) replace(content []byte) error {
	if err := atomicfile.Replace(l.fs, l.path, content); err != nil {
		return UncertainError{fmt.Errorf("writing the token's write-ahead log: %w", err)}
	}
	l.whole, l.torn = len(content), false
	return nil
}
