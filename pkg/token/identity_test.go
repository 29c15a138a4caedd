// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

const (
	application  = "j5t.io/hsm"
	keyPairLabel = "j5t.io/hsm store key"
)

// TestFormatVector reads a token that was written once. It must stay readable
// for ever.
func TestFormatVector(t *testing.T) {
	t.Parallel()
	content := vector(t)
	tok := faulttoken.New(faulttoken.Pico66)
	pair, err := ecdh.P256().NewPrivateKey(content.TokenPrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	tok.PutKeyPair(content.KeyPairLabel, pair)
	for label, value := range content.Objects {
		tok.Put(faulttoken.Object{Label: label, Application: content.Application, Value: value})
	}
	s := &stick{t: t, token: tok, id: hex.EncodeToString(content.StoreID)}
	s.reopen()
	if s.Head() != content.Head {
		t.Errorf("head %#x, expected %#x", s.Head(), content.Head)
	}
	want := newContent()
	for _, r := range content.Records {
		want[r.Key] = token.Record{Key: r.Key, Address: r.Address, Meta: []byte(r.Meta), Data: []byte(r.Data), Revision: r.Revision, DataRevision: r.DataRevision}
	}
	s.expect(want)
}

type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

type vectorFile struct {
	Application, KeyPairLabel          string
	TokenPrivateKey, StoreID, StoreKey hexBytes
	Objects                            map[string]hexBytes
	Records                            []struct {
		Key, Address, Meta, Data string
		Revision, DataRevision   uint64
	}
	Head uint64
}

func vector(t *testing.T) vectorFile {
	t.Helper()
	raw, err := os.ReadFile("format/testdata/format-1.json")
	if err != nil {
		t.Fatal(err)
	}
	var content vectorFile
	if err := json.Unmarshal(raw, &content); err != nil {
		t.Fatal(err)
	}
	return content
}

// keyring is the label of the keyring of a fresh store.
const keyring = "keyring-00000001"

func TestIdentity(t *testing.T) {
	t.Parallel()
	empty := func(*stick) {}
	used := func(s *stick) { s.commit(put("ns/a", 1, 10)) }
	same := func(s *stick) token.Options { return token.Options{StoreID: s.id} }
	sameAndProvision := func(s *stick) token.Options { return token.Options{StoreID: s.id, Provision: true} }
	other := func(*stick) token.Options { return token.Options{StoreID: strings.Repeat("ab", 16), Provision: true} }
	unknown := func(*stick) token.Options { return token.Options{} }
	makeOne := func(*stick) token.Options { return token.Options{Provision: true} }
	wipe := func(s *stick) { s.token = faulttoken.New(faulttoken.Pico66) }
	drop := func(label string) func(s *stick) {
		return func(s *stick) { s.token.Change(label, func(*faulttoken.Object) bool { return false }) }
	}
	damage := func(s *stick) {
		s.token.Change(keyring, func(o *faulttoken.Object) bool { o.Value[120] ^= 1; return true })
	}
	breakIt := func(s *stick) {
		s.token.Change(keyring, func(o *faulttoken.Object) bool { o.Broken = true; return true })
	}
	loseKey := func(s *stick) { s.token.PutKeyPair(keyPairLabel, nil) }
	copyElsewhere := func(s *stick) {
		other := provision(s.t, faulttoken.Pico66)
		for _, o := range other.token.Flash() {
			other.token.Change(o.Label, func(*faulttoken.Object) bool { return false })
		}
		for _, o := range s.token.Flash() {
			other.token.Put(o)
		}
		s.token = other.token
	}
	for name, test := range map[string]struct {
		before, then func(*stick)
		options      func(*stick) token.Options
		want         token.Reason // 0 opens
	}{
		"the store that is served":             {used, empty, same, 0},
		"the same, provisioning still asked":   {used, empty, sameAndProvision, 0},
		"a blank token":                        {empty, wipe, unknown, token.Blank},
		"a blank token, provisioning":          {empty, wipe, makeOne, 0},
		"a wiped token":                        {used, wipe, sameAndProvision, token.Blank},
		"another store":                        {used, empty, other, token.Foreign},
		"an unknown store":                     {used, empty, unknown, token.Foreign},
		"an unknown store, provisioning":       {used, empty, makeOne, token.Foreign},
		"a store made just now":                {empty, empty, makeOne, 0},
		"an empty store, not asked for":        {empty, empty, unknown, token.Foreign},
		"segments without a keyring":           {used, drop(keyring), same, token.Corrupt},
		"the same, provisioning":               {used, drop(keyring), makeOne, token.Corrupt},
		"a damaged keyring":                    {used, damage, same, token.Corrupt},
		"a half-destroyed keyring":             {used, breakIt, same, token.Corrupt},
		"a store whose key pair was erased":    {used, loseKey, same, token.Foreign},
		"a store that was copied from a token": {used, copyElsewhere, same, token.Foreign},
		"an object of a later version":         {used, func(s *stick) { s.token.Put(faulttoken.Object{Label: "index-1", Application: application}) }, same, token.Corrupt},
		"a second keyring, of another store":   {used, func(s *stick) { s.token.Put(otherKeyring(s)) }, same, 0},
		"a keyring under another's label": {used, func(s *stick) {
			s.token.Change(keyring, func(o *faulttoken.Object) bool { o.Label = "keyring-00000002"; return true })
		}, same, token.Corrupt},
		"a torn keyring of a later generation": {used, func(s *stick) {
			s.token.Put(faulttoken.Object{Label: "keyring-00000002", Application: application, Value: []byte{1}})
		}, same, 0},
		"the same, and nothing else, with data": {used, func(s *stick) {
			s.token.Change(keyring, func(o *faulttoken.Object) bool { o.Value = o.Value[:50]; return true })
		}, same, token.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := provision(t, faulttoken.Pico66)
			test.before(s)
			test.then(s)
			before, pairs := s.token.Flash(), s.token.KeyPairs()
			store, err := s.open(test.options(s))
			if got := token.ReasonOf(err); got != test.want || (err == nil) != (test.want == 0) {
				t.Fatalf("opening gave %v (%v), expected %v", err, got, test.want)
			}
			if test.want == 0 {
				if store.ID() == "" {
					t.Error("the store has no id")
				}
				return
			}
			if !sameFlash(before, s.token.Flash()) || pairs != s.token.KeyPairs() {
				t.Error("a refused token was changed")
			}
			if test.want == token.Foreign && !strings.Contains(err.Error(), s.id) {
				t.Errorf("the error does not name store %s: %v", s.id, err)
			}
		})
	}
}

// otherKeyring is one that the same token could open, of a store that was
// aborted while it was made.
func otherKeyring(s *stick) faulttoken.Object {
	c := s.token.Clone()
	for _, o := range c.Flash() {
		c.Change(o.Label, func(*faulttoken.Object) bool { return false })
	}
	if _, err := (&stick{t: s.t, token: c}).open(token.Options{Provision: true}); err != nil {
		s.t.Fatal(err)
	}
	return c.Flash()[0]
}

// TestNothingInTheClear looks for names and values in what the token keeps, and in
// its log.
func TestNothingInTheClear(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.Pico66)
	const canary = "canary-7f3a"
	s.commit(token.Change{Record: token.Record{Key: canary, Address: canary, Meta: []byte(canary), Data: []byte(canary), Revision: 1, DataRevision: 1}})
	for _, o := range s.token.Flash() {
		if strings.Contains(o.Label+o.Application+string(o.Value), canary) {
			t.Errorf("object %q shows what it holds", o.Label)
		}
	}
	content, err := os.ReadFile(s.logPath())
	if err != nil || len(content) < 300 || strings.Contains(string(content), canary) {
		t.Errorf("the log of %d bytes shows what it holds: %v", len(content), err)
	}
}
