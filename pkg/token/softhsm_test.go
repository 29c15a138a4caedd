// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/wal"
	"j5t.io/hsm/test/framework/softhsm"
)

// TestSoftHSM goes the real way: PKCS#11 and SoftHSM 2.
func TestSoftHSM(t *testing.T) {
	t.Parallel()
	soft := softhsm.New(t)
	module, err := pkcs11.Open(soft.Library)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := module.Close(); err != nil {
			t.Error(err)
		}
	}()
	info, err := module.Find(pkcs11.Selector{Serial: soft.Serial})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "shadow")
	// connect is what an agent does after each loss of its token.
	connect := func() *pkcs11.Session {
		t.Helper()
		if err := module.Reinitialize(); err != nil {
			t.Fatal(err)
		}
		if info, err = module.Find(pkcs11.Selector{Serial: soft.Serial}); err != nil {
			t.Fatal(err)
		}
		session, err := module.OpenSession(info.SlotID)
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Login([]byte(soft.PIN)); err != nil {
			t.Fatal(err)
		}
		return session
	}
	open := func(o token.Options) *token.Store {
		t.Helper()
		o.Log = wal.New(atomicfile.OS{}, path)
		store, err := token.Open(connect(), o)
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	store := open(token.Options{Provision: true})
	id := store.ID()
	if got := store.Usage().Profile.Name; got != "softhsm" {
		t.Errorf("the profile is %s", got)
	}
	want := newContent()
	revision := uint64(1) << 60
	for round := range 6 {
		changes := []token.Change{
			put("ns/a", revision+1, 600), put(fmt.Sprintf("ns/%d", round), revision+2, 0), put("ns/long", revision+3, 200<<10+round),
		}
		if round%2 == 1 {
			changes = append(changes, del("ns/a", revision+4), del(fmt.Sprintf("ns/%d", round-1), revision+5))
		}
		revision += 10
		if err := store.Commit(changes); err != nil {
			t.Fatal(err)
		}
		want = want.apply(changes)
		for more := true; more; {
			if more, err = store.CollectGarbage(); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, store); !got.equal(want) {
			t.Fatalf("round %d: the store holds %v, expected %v", round, got, want)
		}
		store = open(token.Options{StoreID: id})
		if got := read(t, store); !got.equal(want) {
			t.Fatalf("round %d: opened again, the store holds %v, expected %v", round, got, want)
		}
	}

	// What somebody destroys is there again after a scrub.
	session := connect()
	objects, err := session.Objects()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects[1:] {
		if err := session.Destroy(o.Handle); err != nil {
			t.Fatal(err)
		}
	}
	f, err := store.Scrub(connect())
	if err != nil || len(f.Restored) < len(objects)-1-f.Superseded || len(f.Restored) == 0 {
		t.Fatalf("scrubbing found %+v, %v", f, err)
	}
	if got := read(t, store); !got.equal(want) {
		t.Fatalf("scrubbed, the store holds %v, expected %v", got, want)
	}
	store = open(token.Options{StoreID: id})
	if got := read(t, store); !got.equal(want) || len(store.RecoveryReport().Restored) > 0 {
		t.Fatalf("opened at last, the store holds %v, expected %v", got, want)
	}
}
