// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/token/wal"
)

// TestFuzzTargets counts the fuzz targets of the whole module, and that each
// decoder here has one.
func TestFuzzTargets(t *testing.T) {
	t.Parallel()
	target := regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]+)\(f \*testing\.F\)`)
	found := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, match := range target.FindAllSubmatch(content, -1) {
			found[filepath.Dir(path)+" "+string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("figure: fuzz-targets %d\n", len(found))
	for _, name := range []string{"FuzzSegment", "FuzzPayload", "FuzzKeyring", "FuzzMemory", "FuzzLegacy", "wal FuzzLog"} {
		dir := "../../pkg/token "
		if rest, ok := strings.CutPrefix(name, "wal "); ok {
			dir, name = "../../pkg/token/wal ", rest
		}
		if !found[dir+name] {
			t.Errorf("there is no %s in %s", name, dir)
		}
	}
}

// FuzzMemory reads shadows. The fuzzer makes entries: each is a byte of kind, a
// byte of length, and a body.
func FuzzMemory(f *testing.F) {
	keyring, _, _ := sampleKeyring(f)
	_, segments := testSealer(f).seal(0x300, samplePayload().encode(0x300, 40))
	var whole []byte
	for _, segment := range segments {
		whole = append(append(whole, entrySegment, byte(len(segment))), segment...)
	}
	name := unitName{commit: 0x300, unit: [unitIDBytes]byte{1, 2}}.encode()
	f.Add(whole, keyring)
	f.Add(append(append(whole, entryFailed, byte(len(name))), name...), []byte{})
	f.Add(append([]byte{entryReserved, 8}, name[:8]...), keyring)
	f.Fuzz(func(t *testing.T, b, keyring []byte) {
		entries := []wal.Entry{{Kind: entryKeyring, Body: keyring}}
		for len(b) >= 2 {
			kind, n := b[0], min(int(b[1]), len(b)-2)
			entries = append(entries, wal.Entry{Kind: kind, Body: b[2 : 2+n]})
			b = b[2+n:]
		}
		if len(keyring) == 0 {
			entries = entries[1:]
		}
		m, err := remember(entries)
		if err != nil {
			return
		}
		for id, backup := range m.units {
			if backup.name.commit != id || m.fates[backup.name] == entryFailed || !m.ids[id] || m.reserved < id {
				t.Fatalf("unit %x was read as %+v", id, backup)
			}
			for i, part := range backup.parts {
				if h, err := decodeHeader(part); err != nil || int(h.part) != i || int(h.parts) != len(backup.parts) || h.unit != backup.name.unit {
					t.Fatalf("part %d of unit %x is %x: %v", i, id, part, err)
				}
			}
		}
	})
}

func FuzzLegacy(f *testing.F) {
	f.Add("app/password\napp/_metadata\nsingle\nsecrets/default/one\nsecrets/default/one/_metadata")
	f.Add("/\n//\n_metadata\n/_metadata")
	f.Fuzz(func(t *testing.T, lines string) {
		labels := strings.Split(lines, "\n")
		keys := 0
		for _, l := range parseLegacy(labels) {
			keys += len(l.Keys)
			for _, key := range l.Keys {
				if !strings.Contains(lines, l.Name+"/"+key) && (key != legacyKey || !strings.Contains(lines, l.Name)) {
					t.Fatalf("%q gave %q, key %q", lines, l.Name, key)
				}
			}
		}
		for _, label := range labels {
			if strings.HasSuffix(label, "/"+legacyMetadata) {
				keys++
			}
		}
		if keys != len(labels) {
			t.Fatalf("%d labels gave %d objects", len(labels), keys)
		}
	})
}

func FuzzSegment(f *testing.F) {
	s := testSealer(f)
	_, segments := s.seal(0x300, samplePayload().encode(0x300, 40))
	for _, segment := range segments {
		f.Add(segment)
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err != nil {
			return
		}
		if !bytes.Equal(h.encode(), b[:headerBytes]) {
			t.Errorf("header %x was read as %+v", b[:headerBytes], h)
		}
		if _, piece, err := s.open(b); err == nil && len(piece) != len(b)-sealOverhead {
			t.Errorf("a segment of %d bytes has a piece of %d", len(b), len(piece))
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add(uint64(0x300), samplePayload().encode(0x300, 4000)[0])
	p := &payload{records: []placed{{Change: Change{Record: Record{
		Key: "ns/name", Address: "secrets/ns/name", Meta: sampleDescription(1).meta, Data: []byte("x"), Revision: 9, DataRevision: 9}}}}}
	f.Add(uint64(9), p.encode(9, 4000)[0])
	f.Add(uint64(1), []byte{})
	f.Fuzz(func(t *testing.T, commit uint64, b []byte) {
		p, err := decodePayload(commit, b)
		if err != nil {
			return
		}
		for i := range p.records {
			r := &p.records[i]
			if r.at < 0 || r.size < 0 || r.at+r.size > len(b) {
				t.Fatalf("data at %d of %d bytes, in %d", r.at, r.size, len(b))
			}
			r.Record.Data = b[r.at : r.at+r.size]
		}
		again, err := decodePayload(commit, bytes.Join(p.encode(commit, len(b)+1), nil))
		if err != nil || len(again.records) != len(p.records) {
			t.Fatalf("what was read, encoded again, gave %v", err)
		}
		for i, r := range p.records {
			a := again.records[i]
			if a.Record.Key != r.Record.Key || a.Record.Revision != r.Record.Revision || !bytes.Equal(a.Record.Meta, r.Record.Meta) || a.size != r.size {
				t.Fatalf("record %d came back changed", i)
			}
		}
	})
}

func FuzzKeyring(f *testing.F) {
	encoded, pairs, keys := sampleKeyring(f)
	f.Add(encoded)
	f.Add(encoded[:27])
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := decodeKeyring(b)
		if err != nil {
			return
		}
		again, err := k.encode(keys)
		if err != nil || len(again) != len(b) || !bytes.Equal(again[:len(b)-keyringTagBytes], b[:len(b)-keyringTagBytes]) {
			t.Fatalf("keyring %x was read as %x, %v", b, again, err)
		}
		if r, ok := k.recipient(pairs[0].PublicKey()); ok && !bytes.Equal(b, encoded) {
			if _, err := k.open(r, pairs[0]); err == nil {
				t.Fatalf("a changed keyring was opened: %x", b)
			}
		}
	})
}
