// SPDX-License-Identifier: Apache-2.0

// Package shadow owns the file in which an agent notes, before it touches its
// token, what the token is going to hold: a log of entries with checksums.
// It never opens what is sealed, and never decides what an entry is worth.
package shadow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"j5t.io/hsm/pkg/atomicfile"
)

// File is one log. It has one user, and is used by one goroutine at a time.
type File struct {
	fs   atomicfile.FS
	path string
	// whole is how many bytes of the file count; what follows is torn.
	whole int
	torn  bool
}

// New returns the log at a path, which need not exist yet; its directory must.
func New(fs atomicfile.FS, path string) *File { return &File{fs: fs, path: path} }

// UncertainError is an error after which it is not known whether entries were
// added. The file has to be read again.
type UncertainError struct{ error }

func (e UncertainError) Unwrap() error { return e.error }

// Read returns all whole entries. A torn tail is left out; that there is no file
// is no error.
func (f *File) Read() ([]Entry, error) {
	content, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the token's shadow: %w", err)
	}
	entries, whole, err := decode(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w. Use the version that wrote it, or move it away", f.path, err)
	}
	f.whole, f.torn = whole, whole < len(content)
	return entries, nil
}

// Torn tells whether there is more in the file than Read returned.
func (f *File) Torn() bool { return f.torn }

// Size is the length of the file in bytes.
func (f *File) Size() int { return f.whole }

// Append adds entries. When it returns, they are on disk. After an error none of
// them is or ever will be, unless it is an UncertainError.
func (f *File) Append(entries ...Entry) error {
	added := encode(nil, entries)
	if f.whole == 0 || f.torn {
		return f.rewrite(added)
	}
	if err := atomicfile.Append(f.fs, f.path, added); err != nil {
		f.torn = true
		err = fmt.Errorf("writing the token's shadow: %w", err)
		if again := f.rewrite(nil); again != nil {
			return UncertainError{errors.Join(err, again)}
		}
		return err
	}
	f.whole += len(added)
	return nil
}

// rewrite replaces the file by what of it counts, and more.
func (f *File) rewrite(added []byte) error {
	content := fileHeader()
	if f.whole > 0 {
		old, err := os.ReadFile(f.path)
		if err != nil {
			return UncertainError{fmt.Errorf("reading the token's shadow: %w", err)}
		}
		content = old[:min(f.whole, len(old))]
	}
	return f.replace(append(content, added...))
}

// Replace gives the file these entries and no others.
func (f *File) Replace(entries []Entry) error { return f.replace(encode(fileHeader(), entries)) }

func (f *File) replace(content []byte) error {
	if err := atomicfile.Replace(f.fs, f.path, content); err != nil {
		return UncertainError{fmt.Errorf("writing the token's shadow: %w", err)}
	}
	f.whole, f.torn = len(content), false
	return nil
}
