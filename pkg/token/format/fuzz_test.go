// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"testing"
)

func FuzzSegment(f *testing.F) {
	s := testSealer(f)
	_, segments := s.Seal(0x300, samplePayload().Encode(0x300, 40))
	for _, segment := range segments {
		f.Add(segment)
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeHeader(b)
		if err != nil {
			return
		}
		if !bytes.Equal(h.encode(), b[:headerBytes]) {
			t.Errorf("header %x was read as %+v", b[:headerBytes], h)
		}
		if _, piece, err := s.Open(b); err == nil && len(piece) != len(b)-SealOverhead {
			t.Errorf("a segment of %d bytes has a piece of %d", len(b), len(piece))
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add(uint64(0x300), samplePayload().Encode(0x300, 4000)[0])
	p := &Payload{Records: []LocatedRecord{{Change: Change{Record: Record{
		Key: "ns/name", Address: "secrets/ns/name", Meta: sampleDescription(1).meta, Data: []byte("x"), Revision: 9, DataRevision: 9}}}}}
	f.Add(uint64(9), p.Encode(9, 4000)[0])
	f.Add(uint64(1), []byte{})
	f.Fuzz(func(t *testing.T, commit uint64, b []byte) {
		p, err := DecodePayload(commit, b)
		if err != nil {
			return
		}
		for i := range p.Records {
			r := &p.Records[i]
			if r.At < 0 || r.Size < 0 || r.At+r.Size > len(b) {
				t.Fatalf("data at %d of %d bytes, in %d", r.At, r.Size, len(b))
			}
			r.Record.Data = b[r.At : r.At+r.Size]
		}
		again, err := DecodePayload(commit, bytes.Join(p.Encode(commit, len(b)+1), nil))
		if err != nil || len(again.Records) != len(p.Records) {
			t.Fatalf("what was read, encoded again, gave %v", err)
		}
		for i, r := range p.Records {
			a := again.Records[i]
			if a.Record.Key != r.Record.Key || a.Record.Revision != r.Record.Revision || !bytes.Equal(a.Record.Meta, r.Record.Meta) || a.Size != r.Size {
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
		k, err := DecodeKeyring(b)
		if err != nil {
			return
		}
		again, err := k.Encode(keys)
		if err != nil || len(again) != len(b) || !bytes.Equal(again[:len(b)-keyringTagBytes], b[:len(b)-keyringTagBytes]) {
			t.Fatalf("keyring %x was read as %x, %v", b, again, err)
		}
		if r, ok := k.Recipient(pairs[0].PublicKey()); ok && !bytes.Equal(b, encoded) {
			if _, err := k.Open(r, pairs[0]); err == nil {
				t.Fatalf("a changed keyring was opened: %x", b)
			}
		}
	})
}
