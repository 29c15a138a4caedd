// SPDX-License-Identifier: Apache-2.0

package memlock_test

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"os"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/memlock"
)

// locked reports whether an address is in a mapping that is locked (proc(5), smaps).
func locked(t *testing.T, address uintptr) bool {
	t.Helper()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	inside := false
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= address && address < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Contains(flags+" ", " lo ")
		}
	}
	t.Fatalf("address %x is in no mapping", address)
	return false
}

type keys struct {
	byID map[int]cipher.AEAD
	raw  *[64]byte
}

func TestLock(t *testing.T) {
	raw := new([64]byte)
	block, err := aes.NewCipher(raw[:32])
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	k := &keys{map[int]cipher.AEAD{1: aead}, raw}
	if err := memlock.Lock(k); err != nil {
		t.Fatalf("this test needs a few pages of RLIMIT_MEMLOCK: %v", err)
	}
	var where uintptr
	if _, err := fmt.Sscanf(fmt.Sprintf("%p", aead), "0x%x", &where); err != nil {
		t.Fatal(err)
	}
	if !locked(t, where) {
		t.Error("the key schedule is not locked")
	}
	if _, err := fmt.Sscanf(fmt.Sprintf("%p", raw), "0x%x", &where); err != nil {
		t.Fatal(err)
	}
	if !locked(t, where) {
		t.Error("the bytes are not locked")
	}
}

func TestLockOfNothing(t *testing.T) {
	t.Parallel()
	for _, v := range []any{nil, 1, "text", (*keys)(nil), &keys{}} {
		if err := memlock.Lock(v); err != nil {
			t.Error(err)
		}
	}
}
