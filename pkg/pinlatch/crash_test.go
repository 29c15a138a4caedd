// SPDX-License-Identifier: Apache-2.0

package pinlatch_test

import (
	"errors"
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faultfs"
)

// moments lack faultfs.Before, which is as After the call before.
var moments = []faultfs.Moment{faultfs.Halfway, faultfs.After}

const beforeLogin, afterLogin = "before login", "after login"

// TestCrash stops an attempt at each file-system call and at the login, before
// and after, then restarts the agent again and again with the same PIN file.
// No wrong PIN reaches the token twice. The right one gets through at last,
// unless the token does not report its tries and the outcome was unknown.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, reporting := range []bool{true, false} {
		for _, pin := range []string{wrong, right} {
			t.Run(fmt.Sprintf("reporting=%v,%s", reporting, pin), func(t *testing.T) {
				t.Parallel()
				whole := faultfs.New(0, faultfs.Before)
				crashOnce(t, whole, "no stop", reporting, pin)
				if whole.Calls() != 2*4 {
					t.Fatalf("an attempt makes %d file-system calls, not two times write, sync, rename, sync", whole.Calls())
				}
				for at := 1; at <= whole.Calls(); at++ {
					for _, moment := range moments {
						crashOnce(t, faultfs.New(at, moment), fmt.Sprintf("call %d, moment %d", at, moment), reporting, pin)
					}
				}
				for _, when := range []string{beforeLogin, afterLogin} {
					crashOnce(t, faultfs.New(0, faultfs.Before), when, reporting, pin)
				}
			})
		}
	}
}

// crashOnce makes an attempt that is stopped, and some more after it.
func crashOnce(t *testing.T, fs *faultfs.FS, when string, reporting bool, pin string) {
	t.Helper()
	dir, k := t.TempDir(), newToken(reporting)
	err := pinlatch.New(dir, fs).Attempt([]byte(pin), k.read(), func(pin []byte) error {
		if when == beforeLogin {
			fs.Stop()
			return faultfs.ErrStopped
		}
		err := k.login(pin)
		if when == afterLogin {
			fs.Stop()
			return faultfs.ErrStopped
		}
		return err
	})
	fs.Stop()
	var after error
	for range 2 {
		after = k.try(dir, pin)
	}
	if k.rejected[wrong] > 1 {
		t.Fatalf("%s: the wrong PIN reached the token %d times", when, k.rejected[wrong])
	}
	if pin == wrong {
		if reason(after) == 0 && pkcs11.ClassOf(after) != pkcs11.ClassPINRejected {
			t.Errorf("%s: restarted with the wrong PIN: %v", when, after)
		}
		if err := k.try(dir, right); err != nil {
			t.Errorf("%s: the PIN file was corrected: %v", when, err)
		}
		return
	}
	unknown := !reporting && errors.Is(err, faultfs.ErrStopped) && reason(after) == pinlatch.ReasonOutcomeUnknown
	if after != nil && !unknown {
		t.Errorf("%s: restarted with the right PIN: %v", when, after)
	}
}

// TestPermissionCrash stops the attempt that a person gave permission for: the permission is
// good for one login at most.
func TestPermissionCrash(t *testing.T) {
	t.Parallel()
	const calls = 2 + 2*3 // Remove the permission; two times replace the latch file.
	for at := 1; at <= calls; at++ {
		for _, moment := range moments {
			dir, k := t.TempDir(), newToken(false)
			if err := k.try(dir, wrong); pkcs11.ClassOf(err) != pkcs11.ClassPINRejected {
				t.Fatal(err)
			}
			permit(k, dir)
			fs := faultfs.New(at, moment)
			err := pinlatch.New(dir, fs).Attempt([]byte(wrong), k.read(), k.login)
			if !errors.Is(err, faultfs.ErrStopped) {
				t.Fatalf("stop at call %d of %d: %v", at, fs.Calls(), err)
			}
			for range 2 {
				_ = k.try(dir, wrong) // Whatever it says, the token counts.
			}
			if k.rejected[wrong] > 2 {
				t.Errorf("stop at call %d, moment %d: the wrong PIN reached the token %d times with one permission", at, moment, k.rejected[wrong])
			}
		}
	}
}

// TestDiskFull: a mark that cannot be written allows no login.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	k := newToken(true)
	err := pinlatch.New(t.TempDir()+"/absent", atomicfile.OS{}).Attempt([]byte(right), k.read(), k.login)
	if err == nil || k.logins != 0 {
		t.Errorf("%d logins, error %v", k.logins, err)
	}
}
