// SPDX-License-Identifier: Apache-2.0

// Package faulttoken is a token in memory that has every bad habit seen on real
// ones, and can be stopped at any step. It knows nothing of what is stored on
// it, and never heals: what a test breaks stays broken until the test mends it.
package faulttoken

import (
	"bytes"
	"cmp"
	"crypto/ecdh"
	"sync"

	"j5t.io/hsm/pkg/pkcs11"
)

// The PKCS#11 functions that calls are counted and faults are set by.
const (
	Find     = "C_FindObjects"
	FindKeys = "C_FindObjects of keys"
	Read     = "C_GetAttributeValue"
	Create   = "C_CreateObject"
	Destroy  = "C_DestroyObject"
	Generate = "C_GenerateKeyPair"
	Derive   = "C_DeriveKey"
	Random   = "C_GenerateRandom"
	Login    = "C_Login"
)

// Token is the stick: what outlives processes and power cuts. It may be used
// by several goroutines.
type Token struct {
	mu      sync.Mutex
	profile Profile
	reader  Reader

	serial       string
	files        []*file // by file number; nil is a free one
	pairs        map[string]*keyPair
	certificates int
	flash        *flash
	dead         bool // the firmware does not start any more
	pin, soPIN   string
	share        string // of the DKEK; see WrapKey
	wrongs       int    // wrong PINs in a row

	epoch    int // grows with every power cut and removal: older processes are dead
	present  bool
	handles  pkcs11.Handle // given so far
	login    int           // grows when a login is lost
	loggedIn bool          // the card

	steps, calls int
	events       []event
	cut          bool
	faults       map[string][]Fault
	journal      []change
	forgets      Forgets
	tears        int
	counters     Counters
}

type keyPair struct {
	private *ecdh.PrivateKey
	records []*record
}

// change is a create or destroy that said CKR_OK.
type change struct {
	number  int
	file    *file
	created bool
}

// New makes a token with the PIN set and nothing on it.
func New(p Profile) *Token {
	t := NewBlank(p)
	t.pin, t.soPIN = PIN, SOPIN
	return t
}

// Info is what the token says of itself.
func (t *Token) Info() pkcs11.TokenInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.profile
	info := pkcs11.TokenInfo{
		Reader: t.reader.slotDescription(),
		Label:  cmp.Or(p.Label, p.Name), Manufacturer: p.Manufacturer, Model: p.Model, Serial: cmp.Or(p.Serial, t.serial),
		FirmwareVersion: "6.6", HardwareVersion: cmp.Or(p.HardwareVersion, "1.0"),
		Initialized: true, UserPINInitialized: t.pin != "",
		UserPINCountLow: t.wrongs > 0, UserPINFinalTry: t.wrongs == p.PINTries-1, UserPINLocked: t.wrongs >= p.PINTries,
	}
	if t.pin == "" && p.Memory { // OpenSC finds nothing on it that says more.
		info.Label, info.Manufacturer, info.Model, info.Serial = "", "", "PKCS#15", ""
	}
	return info
}

// Clone copies all that is in flash.
func (t *Token) Clone() *Token {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := New(t.profile)
	c.reader, c.serial, c.pin, c.soPIN, c.share, c.wrongs = t.reader, t.serial, t.pin, t.soPIN, t.share, t.wrongs
	c.dead, c.certificates = t.dead, t.certificates
	var copies map[*record]*record
	c.flash, copies = t.flash.clone()
	for _, f := range t.files {
		if f == nil {
			c.files = append(c.files, nil)
			continue
		}
		copied := *f
		copied.value = bytes.Clone(f.value)
		copied.atValue, copied.atDescription = copies[f.atValue], copies[f.atDescription]
		c.files = append(c.files, &copied)
	}
	for label, pair := range t.pairs {
		copied := &keyPair{private: pair.private}
		for _, r := range pair.records {
			copied.records = append(copied.records, copies[r])
		}
		c.pairs[label] = copied
	}
	return c
}

// Object is what lies in flash, whether a process sees it or not.
type Object struct {
	Label, Application string
	Value              []byte
	Broken             bool
}

// Flash is all described objects in flash, by file number.
func (t *Token) Flash() []Object {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Object
	for _, f := range t.files {
		if f != nil && f.described {
			all = append(all, Object{f.label, f.application, bytes.Clone(f.value), f.broken})
		}
	}
	return all
}

// Put lays an object into flash, past all limits and counters.
func (t *Token) Put(o Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := &file{label: o.Label, application: o.Application, value: bytes.Clone(o.Value), broken: o.Broken, described: true}
	if !f.broken {
		f.atValue = t.flash.put(nil, len(f.value))
	}
	f.atDescription = t.flash.put(nil, f.descriptionBytes())
	t.flash.forget()
	t.files = append(t.files, f)
}

// PutKeyPair lays a key pair onto the token; nil removes it.
func (t *Token) PutKeyPair(label string, pair *ecdh.PrivateKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.putKeyPair(label, pair)
}

func (t *Token) putKeyPair(label string, private *ecdh.PrivateKey) {
	if old := t.pairs[label]; old != nil {
		for _, r := range old.records {
			t.flash.free(r)
		}
		delete(t.pairs, label)
	}
	if private == nil {
		return
	}
	pair := &keyPair{private: private}
	for _, bytes := range keyPairFiles {
		pair.records = append(pair.records, t.flash.put(nil, bytes))
		t.flush()
	}
	t.pairs[label] = pair
}

// KeyPairs counts the key pairs on the token.
func (t *Token) KeyPairs() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pairs)
}

// PutCertificates says how many certificates are on the token.
func (t *Token) PutCertificates(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.certificates = n
}

// Change edits the first object with a label in flash; false from edit removes it.
func (t *Token) Change(label string, edit func(*Object) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.flash.forget()
	for i, f := range t.files {
		if f == nil || f.label != label {
			continue
		}
		o := Object{f.label, f.application, bytes.Clone(f.value), f.broken}
		if !edit(&o) {
			t.erase(i)
			return
		}
		f.label, f.application, f.value, f.broken = o.Label, o.Application, o.Value, o.Broken
		if f.broken {
			t.flash.free(f.atValue)
			f.atValue = nil
		}
		return
	}
}
