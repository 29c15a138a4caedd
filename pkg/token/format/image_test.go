// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/token/format"
)

type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

// TestReadImage reads a store that was written once, with this package alone.
func TestReadImage(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/format-1.json")
	if err != nil {
		t.Fatal(err)
	}
	var image struct {
		Application, KeyPairLabel string
		TokenPrivateKey, StoreID  hexBytes
		Objects                   map[string]hexBytes
		Head                      uint64
		Records                   []struct {
			Key, Address, Meta, Data string
			Revision, DataRevision   uint64
		}
	}
	if err := json.Unmarshal(raw, &image); err != nil {
		t.Fatal(err)
	}
	if image.Application != format.Application || image.KeyPairLabel != format.KeyPairLabel {
		t.Errorf("application %q, key pair %q", image.Application, image.KeyPairLabel)
	}
	pair, err := ecdh.P256().NewPrivateKey(image.TokenPrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyring, err := format.DecodeKeyring(image.Objects[format.KeyringLabel(1)])
	if err != nil || keyring.Store != format.StoreID(image.StoreID) {
		t.Fatalf("keyring %+v, %v", keyring, err)
	}
	recipient, ok := keyring.Recipient(pair.PublicKey())
	if !ok {
		t.Fatal("the keyring is not sealed to the token's key")
	}
	keys, err := keyring.Open(recipient, pair)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := format.NewSealer(keyring.Store, keys)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[uint64][]byte{} // of commits
	for _, label := range slices.Sorted(maps.Keys(image.Objects)) {
		commit, part, ok := format.ParseSegmentLabel(label)
		if !ok {
			continue
		}
		h, piece, err := sealer.Open(image.Objects[label])
		if err != nil || h.Commit != commit || h.Part != part {
			t.Fatalf("%s: %+v, %v", label, h, err)
		}
		contents[commit] = append(contents[commit], piece...) // labels sort as parts do
	}
	type read struct {
		format.Record
		deleted bool
	}
	got := map[string]read{}
	var head uint64
	for commit, content := range contents {
		p, err := format.DecodePayload(commit, content)
		if err != nil {
			t.Fatal(err)
		}
		head = max(head, commit)
		for _, r := range p.Records {
			if r.Record.Revision >= got[r.Record.Key].Revision {
				r.Record.Data = content[r.At : r.At+r.Size]
				got[r.Record.Key] = read{r.Record, r.Delete}
			}
		}
	}
	maps.DeleteFunc(got, func(_ string, r read) bool { return r.deleted })
	if head != image.Head || len(got) != len(image.Records) || len(got) == 0 {
		t.Fatalf("head %x and %d records, expected %x and %d", head, len(got), image.Head, len(image.Records))
	}
	for _, want := range image.Records {
		r := got[want.Key]
		if r.Address != want.Address || string(r.Meta) != want.Meta || string(r.Data) != want.Data || r.Revision != want.Revision || r.DataRevision != want.DataRevision {
			t.Errorf("%s was read as %+v", want.Key, r)
		}
	}
}
