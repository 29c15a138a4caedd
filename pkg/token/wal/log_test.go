// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/test/framework/faultfs"
)

func entry(kind Kind, body string) Entry { return Entry{Kind: kind, Body: []byte(body)} }

func equal(a, b []Entry) bool {
	return slices.EqualFunc(a, b, func(a, b Entry) bool { return a.Kind == b.Kind && bytes.Equal(a.Body, b.Body) })
}

func readAgain(t *testing.T, path string) []Entry {
	t.Helper()
	entries, err := New(atomicfile.OS{}, path).Read()
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestEntriesComeBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shadow")
	f := New(atomicfile.OS{}, path)
	var want []Entry
	if got, err := f.Read(); err != nil || len(got) > 0 {
		t.Fatalf("no file was read as %v, %v", got, err)
	}
	for i := range 5 {
		added := []Entry{entry(Kind(i), fmt.Sprint("body ", i)), entry(0xff, "")}
		if err := f.Append(added...); err != nil {
			t.Fatal(err)
		}
		want = append(want, added...)
		if got := readAgain(t, path); !equal(got, want) {
			t.Fatalf("it came back as %v, expected %v", got, want)
		}
	}
	want = want[3:5]
	if err := f.Replace(want); err != nil {
		t.Fatal(err)
	}
	if err := f.Append(entry(1, "more")); err != nil {
		t.Fatal(err)
	}
	want = append(want, entry(1, "more"))
	if got := readAgain(t, path); !equal(got, want) {
		t.Fatalf("it came back as %v, expected %v", got, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != int64(f.Size()) || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %+v, expected %d bytes for its owner alone: %v", info, f.Size(), err)
	}
}

// TestDamage cuts the file anywhere, and changes any byte: what is read is a
// beginning of what was written, and more can be added after it.
func TestDamage(t *testing.T) {
	t.Parallel()
	written := []Entry{entry(1, "first"), entry(2, ""), entry(3, "third and last")}
	content := encode(fileHeader(), written)
	path := filepath.Join(t.TempDir(), "shadow")
	try := func(what string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f := New(atomicfile.OS{}, path)
		got, err := f.Read()
		if err != nil {
			if len(content) >= fileHeaderBytes && bytes.HasPrefix(content, fileHeader()) {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		if len(got) == len(written) || !equal(got, written[:len(got)]) || f.Torn() != (f.Size() < len(content)) {
			t.Errorf("%s: it was read as %v, torn: %v", what, got, f.Torn())
		}
		if err := f.Append(entry(9, "added")); err != nil {
			t.Fatal(err)
		}
		if again := readAgain(t, path); !equal(again, append(got, entry(9, "added"))) {
			t.Errorf("%s: with one more, it was read as %v", what, again)
		}
	}
	for n := range content {
		try(fmt.Sprintf("the first %d bytes", n), content[:n])
		changed := bytes.Clone(content)
		changed[n] ^= 0x10
		try(fmt.Sprintf("byte %d changed", n), changed)
	}
}

// TestCrash stops at each call. The entries are there, or not; there when
// Append said so, and never after it said that they are not.
func TestCrash(t *testing.T) {
	t.Parallel()
	before := []Entry{entry(1, "before")}
	added := []Entry{entry(2, "one"), entry(3, "two")}
	after := append(slices.Clone(before), added...)
	for name, act := range map[string]func(*Log) error{
		"append":  func(l *Log) error { return l.Append(added...) },
		"replace": func(l *Log) error { return l.Replace(after) },
		"append to a torn file": func(l *Log) error {
			if err := os.WriteFile(l.path, append(encode(fileHeader(), before), 7), 0o600); err != nil {
				return err
			}
			if _, err := l.Read(); err != nil {
				return err
			}
			return l.Append(added...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := func(fs *faultfs.FS) {
				path := filepath.Join(t.TempDir(), "shadow")
				if err := New(atomicfile.OS{}, path).Replace(before); err != nil {
					t.Fatal(err)
				}
				f := New(fs, path)
				if _, err := f.Read(); err != nil {
					t.Fatal(err)
				}
				err := act(f)
				fs.Stop()
				got := readAgain(t, path)
				var uncertain UncertainError
				switch {
				case err == nil && equal(got, after), errors.As(err, &uncertain) && (equal(got, after) || len(got) < len(after) && equal(got, after[:len(got)])):
				default:
					t.Errorf("call %d: %v, and the file has %v", fs.Calls(), err, got)
				}
			}
			whole := faultfs.New(0, faultfs.Before)
			run(whole)
			for at := 1; at <= whole.Calls(); at++ {
				for _, moment := range []faultfs.Moment{faultfs.Before, faultfs.Halfway, faultfs.After} {
					run(faultfs.New(at, moment))
				}
			}
		})
	}
}

// failing fails one call and goes on, as a disk that was full does.
type failing struct {
	atomicfile.OS
	appends, syncs int // to fail
}

var errFull = errors.New("no space left")

func (f *failing) Append(path string, content []byte) error {
	if f.appends > 0 {
		f.appends--
		if err := f.OS.Append(path, content[:len(content)/2]); err != nil {
			return err
		}
		return errFull
	}
	return f.OS.Append(path, content)
}

func (f *failing) Sync(path string) error {
	if f.syncs > 0 {
		f.syncs--
		return errFull
	}
	return f.OS.Sync(path)
}

// TestFailedAppend: what could not be added is taken back, whole or in part.
func TestFailedAppend(t *testing.T) {
	t.Parallel()
	for _, failures := range []failing{{appends: 1}, {syncs: 1}} {
		fs := &failing{}
		path := filepath.Join(t.TempDir(), "shadow")
		f := New(fs, path)
		if err := f.Replace([]Entry{entry(1, "before")}); err != nil {
			t.Fatal(err)
		}
		*fs = failures
		err := f.Append(entry(2, "refused"))
		var uncertain UncertainError
		if !errors.Is(err, errFull) || errors.As(err, &uncertain) {
			t.Errorf("a full disk gave %v", err)
		}
		if got := readAgain(t, path); !equal(got, []Entry{entry(1, "before")}) {
			t.Errorf("after it the file has %v", got)
		}
		if err := f.Append(entry(3, "later")); err != nil {
			t.Fatal(err)
		}
		if got := readAgain(t, path); !equal(got, []Entry{entry(1, "before"), entry(3, "later")}) {
			t.Errorf("at last the file has %v", got)
		}
	}
}

func FuzzLog(f *testing.F) {
	f.Add(encode(fileHeader(), []Entry{entry(1, "first"), entry(2, "")}))
	f.Add(fileHeader())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, whole, err := decode(b)
		if err != nil || len(b) == 0 {
			return
		}
		if again := encode(fileHeader(), entries); whole > len(b) || !bytes.Equal(again, b[:whole]) {
			t.Errorf("%x was read as %v", b, entries)
		}
	})
}
