// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"crypto/ecdh"
	"os"
	"path/filepath"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/token/format"
)

// The store of testdata/log-1.bin is that of testdata/format-1.json of package format.
var logStore = format.StoreID([]byte("vector-1 store i"))

// TestLogFixture reads a log that was written once, with an entry of each kind. It
// must stay readable, and be written again byte by byte.
func TestLogFixture(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/log-1.bin")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	log := New(atomicfile.OS{}, path)
	entries, err := log.Read()
	if err != nil || log.Torn() || log.Size() != len(content) {
		t.Fatalf("%d of %d bytes were read: %v", log.Size(), len(content), err)
	}
	replay, err := log.Replay()
	if err != nil {
		t.Fatal(err)
	}
	if replay.Store != logStore || len(replay.Keyring) != 244 || replay.Reserved != 0x4444 {
		t.Errorf("store %q, keyring of %d bytes, reserved %x", replay.Store[:], len(replay.Keyring), replay.Reserved)
	}
	for id, lengths := range map[uint64][]int{0x1000: {308}, 0x2000: {109}, 0x3000: {164, 140}} {
		c := replay.Commits[id]
		if c == nil || len(c.Segments) != len(lengths) || replay.Outcomes[c.Name] != KindSegment {
			t.Fatalf("commit %x was read as %+v", id, c)
		}
		for i, want := range lengths {
			if len(c.Segments[i]) != want {
				t.Errorf("part %d of commit %x has %d bytes", i, id, len(c.Segments[i]))
			}
		}
	}
	named := func(id uint64, b byte) CommitName {
		return CommitName{id, format.Nonce{b, 1, 2, 3, 4, 5, 6, 7, 8, 9}}
	}
	failed, made, unresolved := named(0x1801, 1), named(0x1802, 2), named(0x2fff, 3)
	if replay.Outcomes[failed] != KindFailed || replay.Outcomes[made] != KindMade || replay.Outcomes[unresolved] != KindUnresolved ||
		len(replay.Outcomes) != 6 || len(replay.Commits) != 3 || replay.Highest() != 0x3000 || !replay.Failed(0x1801) || replay.Failed(0x1802) || !replay.Names(0x2fff) {
		t.Errorf("the outcomes are %+v", replay.Outcomes)
	}

	again := New(atomicfile.OS{}, filepath.Join(t.TempDir(), "again"))
	written := []Entry{Reserved(0x2222), Keyring(replay.Keyring),
		Segment(replay.Commits[0x1000].Segments[0]), Segment(replay.Commits[0x2000].Segments[0]),
		Segment(replay.Commits[0x3000].Segments[0]), Segment(replay.Commits[0x3000].Segments[1]),
		Failed(failed), Made(made), Unresolved(unresolved), Reserved(0x4444)}
	if len(entries) != len(written) {
		t.Fatalf("%d entries were read", len(entries))
	}
	if err := again.Replace(written); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(again.path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the same entries became\n%x, expected\n%x; %v", got, content, err)
	}
}

// fuzzSeed is a keyring, and the segments of a commit of several.
func fuzzSeed(f *testing.F) (keyring []byte, segments [][]byte) {
	f.Helper()
	pair, err := ecdh.P256().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	keys := []format.StoreKey{{ID: 1, Secret: bytes.Repeat([]byte{1}, format.StoreKeyBytes)}}
	k := &format.Keyring{Generation: 3, Store: format.StoreID{4, 5, 6}}
	if err := k.Add(format.RecipientToken, pair.PublicKey(), keys); err != nil {
		f.Fatal(err)
	}
	if keyring, err = k.Encode(keys); err != nil {
		f.Fatal(err)
	}
	sealer, err := format.NewSealer(k.Store, keys)
	if err != nil {
		f.Fatal(err)
	}
	_, segments = sealer.Seal(0x300, [][]byte{[]byte("one piece"), []byte("another piece"), []byte("a third")})
	return keyring, segments
}

// FuzzReplay reads logs. The fuzzer makes entries: each is a byte of kind, a
// byte of length, and a body.
func FuzzReplay(f *testing.F) {
	keyring, segments := fuzzSeed(f)
	var whole []byte
	for _, segment := range segments {
		whole = append(append(whole, byte(KindSegment), byte(len(segment))), segment...)
	}
	name := CommitName{ID: 0x300, Nonce: format.Nonce{1, 2}}.encode()
	f.Add(whole, keyring)
	f.Add(append(append(whole, byte(KindFailed), byte(len(name))), name...), []byte{})
	f.Add(append([]byte{byte(KindReserved), 8}, name[:8]...), keyring)
	f.Fuzz(func(t *testing.T, b, keyring []byte) {
		entries := []Entry{Keyring(keyring)}
		for len(b) >= 2 {
			kind, n := b[0], min(int(b[1]), len(b)-2)
			entries = append(entries, Entry{Kind: Kind(kind), Body: b[2 : 2+n]})
			b = b[2+n:]
		}
		if len(keyring) == 0 {
			entries = entries[1:]
		}
		m, err := ReplayOf(entries)
		if err != nil {
			return
		}
		for id, c := range m.Commits {
			if c.Name.ID != id || m.Outcomes[c.Name] == KindFailed || !m.Names(id) || m.Reserved < id {
				t.Fatalf("commit %x was read as %+v", id, c)
			}
			for i, segment := range c.Segments {
				if h, err := format.DecodeHeader(segment); err != nil || int(h.Part) != i || int(h.Parts) != len(c.Segments) || h.Nonce != c.Name.Nonce {
					t.Fatalf("part %d of commit %x is %x: %v", i, id, segment, err)
				}
			}
		}
	})
}
