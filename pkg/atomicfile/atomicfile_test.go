// SPDX-License-Identifier: Apache-2.0

package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/test/framework/faultfs"
)

// TestReplaceCrash stops at each call: the file is the old or the new, and the
// new if Replace returned.
func TestReplaceCrash(t *testing.T) {
	t.Parallel()
	for _, old := range []string{"", "old content"} {
		crash(t, old, "new content", func(fs atomicfile.FS, path string) error {
			return atomicfile.Replace(fs, path, []byte("new content"))
		})
	}
}

// TestRemoveCrash does the same: the file is there whole, or not at all.
func TestRemoveCrash(t *testing.T) {
	t.Parallel()
	crash(t, "old content", "", atomicfile.Remove)
}

// crash runs an operation that turns old into wanted, once without a stop, then
// with a stop at each call. The empty content is no file.
func crash(t *testing.T, old, wanted string, operation func(atomicfile.FS, string) error) {
	t.Helper()
	run := func(fsys *faultfs.FS) (content string, acknowledged bool) {
		path := filepath.Join(t.TempDir(), "file")
		if old != "" {
			if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := operation(fsys, path)
		fsys.Stop()
		b, readErr := os.ReadFile(path)
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
			t.Fatal(readErr)
		}
		return string(b), err == nil
	}

	whole := faultfs.New(0, faultfs.Before)
	if content, acknowledged := run(whole); !acknowledged || content != wanted {
		t.Fatalf("power loss after it returned: %q, acknowledged %v", content, acknowledged)
	}
	if whole.Calls() < 2 {
		t.Fatalf("only %d calls", whole.Calls())
	}
	for at := 1; at <= whole.Calls(); at++ {
		for _, moment := range []faultfs.Moment{faultfs.Before, faultfs.Halfway, faultfs.After} {
			content, acknowledged := run(faultfs.New(at, moment))
			if acknowledged || content != old && content != wanted {
				t.Errorf("stop at call %d, moment %d: %q, acknowledged %v", at, moment, content, acknowledged)
			}
		}
	}
}

// TestAppendCrash does the same: nothing of the addition is lost once Append returned.
// Before, any part of it may be there.
func TestAppendCrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("old "), 0o600); err != nil {
		t.Fatal(err)
	}
	fsys := faultfs.New(0, faultfs.Before)
	if err := atomicfile.Append(fsys, path, []byte("content")); err != nil {
		t.Fatal(err)
	}
	fsys.Stop()
	if got, err := os.ReadFile(path); err != nil || string(got) != "old content" {
		t.Errorf("after a loss of power there is %q, %v", got, err)
	}
}

// TestOSSyncs: the kernel is asked to sync, which it refuses for a device.
func TestOSSyncs(t *testing.T) {
	t.Parallel()
	for name, sync := range map[string]func(string) error{"Sync": atomicfile.OS{}.Sync, "SyncDir": atomicfile.OS{}.SyncDir} {
		if err := sync(os.DevNull); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s of a device: %v", name, err)
		}
	}
}

func TestOS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := atomicfile.Remove(atomicfile.OS{}, path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove of an absent file: %v", err)
	}
	for _, content := range []string{"a long first content", "second", ""} {
		if err := atomicfile.Replace(atomicfile.OS{}, path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%q, %v; want %q", got, err, content)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := atomicfile.Remove(atomicfile.OS{}, path); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if err := atomicfile.Replace(atomicfile.OS{}, filepath.Join(dir, "absent", "file"), nil); err == nil {
		t.Error("replaced a file of an absent directory")
	}
}
