// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

func testSealer(t testing.TB) *Sealer {
	t.Helper()
	s, err := NewSealer(StoreID{1, 2, 3}, []StoreKey{{ID: 7, Secret: bytes.Repeat([]byte{0xa5}, StoreKeyBytes)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func samplePayload() *Payload {
	return &Payload{
		Live: 2, Digest: DigestOf([]uint64{0x10, 0x20}), Superseded: []uint64{0x18, 0x08},
		Records: []LocatedRecord{
			{Change: Change{Record: Record{Key: "q", Data: []byte("value"), Revision: 0x2ff, DataRevision: 0x2f0}}},
			{Change: Change{Record: Record{Key: "k", Revision: 0x300}, Delete: true}},
		},
	}
}

// TestSegmentBytes fixes every byte of a segment. Nothing in it is long enough
// to be compressed, because compressors may change.
func TestSegmentBytes(t *testing.T) {
	t.Parallel()
	p := samplePayload()
	pieces := p.Encode(0x300, 4000)
	payloadBytes := strings.Join([]string{
		"02" + "43f14079f496620c4126491847193e75", // two earlier units
		"02" + "e805" + "10",                      // Superseded: 0x300-0x18, 0x18-0x08
		"02",                                      // records
		"01" + "01" + "0f" + "00" + "03" + "017100" + "05" + "76616c7565",
		"02" + "00" + "00" + "03" + "016b00",
	}, "")
	if got := hex.EncodeToString(pieces[0]); len(pieces) != 1 || got != payloadBytes {
		t.Errorf("the payload is\n%s, expected\n%s", got, payloadBytes)
	}
	segment := testSealer(t).sealAs(Nonce{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 0x300, pieces)[0]
	header := "4a355448" + "01" + "01" + "0001" + "00000007" + "01020300000000000000000000000000" + "0000000000000300" + "09080706050403020100" + "0000"
	if got := hex.EncodeToString(segment[:headerBytes]); got != header {
		t.Errorf("the header is\n%s, expected\n%s", got, header)
	}
	const sealed = "20ff1042fbc5518aa8d4a8c2d5d55e3d64f348bd7647f5b1fb974c20813ae621119519d920021b03d431b3ec805285eea4d637182bad017160b5c6"
	if got := hex.EncodeToString(segment[headerBytes:]); got != sealed {
		t.Errorf("the sealed payload is\n%s, expected\n%s", got, sealed)
	}
}

func TestPayloadComesBack(t *testing.T) {
	t.Parallel()
	p := samplePayload()
	encoded := p.Encode(0x300, 4000)[0]
	got, err := DecodePayload(0x300, encoded)
	if err != nil {
		t.Fatal(err)
	}
	want := samplePayload()
	total := 0
	for i := range want.Records {
		r, g := &want.Records[i], got.Records[i]
		if data := encoded[g.At : g.At+g.Size]; !bytes.Equal(data, r.Record.Data) {
			t.Errorf("the data of %q is %q", r.Record.Key, data)
		}
		r.Record.Data, r.Record.Meta = nil, g.Record.Meta
		r.At, r.Size, r.Length = g.At, g.Size, g.Length
		total += g.Length
	}
	if head := (&Payload{Live: want.Live, Superseded: want.Superseded}).Encode(0x300, 4000)[0]; len(head)+total != len(encoded) {
		t.Errorf("records of %d bytes after %d others, in %d", total, len(head), len(encoded))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it came back as %+v, expected %+v", got, want)
	}
	for n := range encoded {
		if _, err := DecodePayload(0x300, encoded[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were read", n, len(encoded))
		}
	}
	if _, err := DecodePayload(0x300, append(encoded, 0)); err == nil {
		t.Error("a byte after the last record was read over")
	}
	if _, err := DecodePayload(0x100, encoded); err == nil {
		t.Error("revisions below zero were read")
	}
}

// TestPiecesKeepRecordsWhole checks that only a record longer than a piece is cut.
func TestPiecesKeepRecordsWhole(t *testing.T) {
	t.Parallel()
	p := &Payload{}
	for i, size := range []int{30, 50, 300, 10, 60, 99, 1} {
		p.Records = append(p.Records, LocatedRecord{Change: Change{Record: Record{
			Key: string(rune('a' + i)), Data: bytes.Repeat([]byte{byte(i)}, size), Revision: uint64(i + 1), DataRevision: 1,
		}}})
	}
	const size = 110
	pieces := p.Encode(7, size)
	var starts []int
	at := 0
	for _, piece := range pieces {
		if len(piece) > size || len(piece) == 0 {
			t.Errorf("a piece has %d bytes, expected 1 to %d", len(piece), size)
		}
		starts = append(starts, at)
		at += len(piece)
	}
	for _, r := range p.Records {
		touched := 0
		for i, start := range starts {
			if r.At < start+len(pieces[i]) && r.At+r.Size > start {
				touched++
			}
		}
		want := 1
		if r.Length > size {
			want = r.Length/size + 2
		}
		if touched > want {
			t.Errorf("record %q of %d bytes lies in %d pieces, expected at most %d", r.Record.Key, r.Length, touched, want)
		}
	}
	got, err := DecodePayload(7, bytes.Join(pieces, nil))
	if err != nil || len(got.Records) != len(p.Records) {
		t.Fatalf("it came back as %+v, %v", got, err)
	}
}

func TestSegmentsAreAuthentic(t *testing.T) {
	t.Parallel()
	s := testSealer(t)
	nonce, segments := s.Seal(5, [][]byte{[]byte("first"), []byte("second")})
	for i, segment := range segments {
		h, piece, err := s.Open(segment)
		if err != nil || h.Nonce != nonce || int(h.Part) != i || h.Parts != 2 || h.Commit != 5 || len(piece) != 5+i {
			t.Fatalf("part %d came back as %+v %q, %v", i, h, piece, err)
		}
		for bit := range len(segment) * 8 {
			changed := bytes.Clone(segment)
			changed[bit/8] ^= 1 << (bit % 8)
			if _, _, err := s.Open(changed); err == nil {
				t.Errorf("part %d was opened with bit %d changed", i, bit)
			}
		}
		for n := range segment {
			if _, _, err := s.Open(segment[:n]); err == nil {
				t.Errorf("the first %d of %d bytes were opened", n, len(segment))
			}
		}
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	for _, commit := range []uint64{0, 1, 0xdeadbeef, 1<<64 - 1} {
		for _, part := range []uint16{0, 1, 0xffff} {
			label := SegmentLabel(commit, part)
			if c, p, ok := ParseSegmentLabel(label); !ok || c != commit || p != part || len(label) > 32 {
				t.Errorf("label %q was read as %x %d %v", label, c, p, ok)
			}
		}
	}
	for _, label := range []string{"", "segment-", "segment-1", "segment-000000000000000G", "segment-00000000000000AA",
		"segment-0000000000000001-", "segment-0000000000000001-0000", "segment-0000000000000001-1", "segment-0000000000000001-00001",
		"segment-+000000000000001", "keyring-00000001", "xsegment-0000000000000001"} {
		if _, _, ok := ParseSegmentLabel(label); ok {
			t.Errorf("label %q was read as a segment's", label)
		}
	}
	if g, ok := ParseKeyringLabel(KeyringLabel(0x1f)); !ok || g != 0x1f {
		t.Errorf("a keyring's label was read as %d, %v", g, ok)
	}
	for _, label := range []string{"keyring-", "keyring-1", "keyring-0000000A", "keyring-000000001", "segment-0000000000000001"} {
		if _, ok := ParseKeyringLabel(label); ok {
			t.Errorf("label %q was read as a keyring's", label)
		}
	}
}
