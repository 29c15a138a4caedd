// SPDX-License-Identifier: Apache-2.0

// Package faulttoken is a token in memory that has every bad habit seen on real
// ones, and can be stopped at any step. It knows nothing of what is stored on
// it, and never heals: what a test breaks stays broken until the test mends it.
package faulttoken

import (
	"bytes"
	"crypto/ecdh"
	"sync"

	"j5t.io/hsm/pkg/pkcs11"
)

// The PKCS#11 functions that calls are counted and faults are set by.
const (
	Find     = "C_FindObjects"
	Read     = "C_GetAttributeValue"
	Create   = "C_CreateObject"
	Destroy  = "C_DestroyObject"
	Generate = "C_GenerateKeyPair"
	Derive   = "C_DeriveKey"
	Random   = "C_GenerateRandom"
	Login    = "C_Login"
)

// PIN is the right one.
const PIN = "648219"

// Token is the stick: what outlives processes and power cuts. It may be used
// by several goroutines.
type Token struct {
	mu      sync.Mutex
	profile Profile
	serial  string
	files   []*file // by file number; nil is a free one
	pairs   map[string]*ecdh.PrivateKey

	epoch   int // grows with every power cut and removal: older processes are dead
	present bool
	handles pkcs11.Handle // given so far
	login   int           // grows when a login is lost
	wrongs  int           // wrong PINs in a row

	steps    int
	cutAt    int // 0 is never
	cutAfter bool
	cut      bool
	faults   map[string][]Fault
	journal  []change
	forgets  Forgets
	counters Counters
}

// file is a data object in flash.
type file struct {
	label, application string
	value              []byte
	described          bool // else no process sees it
	broken             bool // the value is gone
}

// change is a create or destroy that said CKR_OK.
type change struct {
	number  int
	file    *file
	created bool
}

// Fault is what a call does instead of working.
type Fault struct {
	Code uint // CKR_*; 0 lets the call work
	// Done: the effect is there all the same.
	Done bool
}

// Forgets is what a power cut undoes although it said CKR_OK.
type Forgets struct {
	Creates, Destroys int // the last ones
	// Broken: objects whose destruction was undone come back without a value.
	Broken bool
}

// Counters are of the token's whole life.
type Counters struct {
	Calls   map[string]int // by PKCS#11 function
	APDUs   int
	Sectors int // of flash, erased and programmed
}

// New makes a token with the PIN set and nothing on it.
func New(p Profile) *Token {
	return &Token{
		profile: p, serial: "FAULT0001", present: true,
		pairs: map[string]*ecdh.PrivateKey{}, faults: map[string][]Fault{},
		counters: Counters{Calls: map[string]int{}},
	}
}

// Info is what the token says of itself.
func (t *Token) Info() pkcs11.TokenInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	return pkcs11.TokenInfo{
		Label: t.profile.Name, Manufacturer: t.profile.Manufacturer, Model: t.profile.Model, Serial: t.serial,
		FirmwareVersion: "6.6", HardwareVersion: "1.0",
		Initialized: true, UserPINInitialized: true,
		UserPINCountLow: t.wrongs > 0, UserPINFinalTry: t.wrongs == t.profile.PINTries-1, UserPINLocked: t.wrongs >= t.profile.PINTries,
	}
}

// Clone copies all that is in flash.
func (t *Token) Clone() *Token {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := New(t.profile)
	c.serial, c.wrongs = t.serial, t.wrongs
	for _, f := range t.files {
		if f == nil {
			c.files = append(c.files, nil)
			continue
		}
		copied := *f
		copied.value = bytes.Clone(f.value)
		c.files = append(c.files, &copied)
	}
	for label, pair := range t.pairs {
		c.pairs[label] = pair
	}
	return c
}

// CutAt cuts the power at a step, counted from now: before it, or after it and
// before its answer. A step is a call, or one of the two writes of a create or
// destroy. The next Open turns the power on again.
func (t *Token) CutAt(step int, after bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps, t.cutAt, t.cutAfter, t.cut = 0, step, after, false
}

// Steps counts the steps since CutAt, or since the beginning.
func (t *Token) Steps() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.steps
}

// Cut tells whether the cut that CutAt set has come.
func (t *Token) Cut() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cut
}

// Fail lets the next call of a function fail; several are used up in turn.
func (t *Token) Fail(function string, f Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults[function] = append(t.faults[function], f)
}

// Mend takes back all faults that were not used up.
func (t *Token) Mend() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.faults)
}

// Forget sets what the next power cuts undo.
func (t *Token) Forget(f Forgets) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgets = f
}

// PowerCut stops the token; Open starts it again.
func (t *Token) PowerCut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.powerCut()
}

// Remove pulls the token.
func (t *Token) Remove() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.present = false
	t.epoch++
}

// Insert puts the token back.
func (t *Token) Insert() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.present = true
}

// LoseLogin logs all sessions out, as another client that selects the card's
// applet does.
func (t *Token) LoseLogin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.login++
}

// Counters returns a copy.
func (t *Token) Counters() Counters {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counters
	c.Calls = map[string]int{}
	for f, n := range t.counters.Calls {
		c.Calls[f] = n
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
	t.files = append(t.files, f)
}

// PutKeyPair lays a key pair onto the token; nil removes it.
func (t *Token) PutKeyPair(label string, pair *ecdh.PrivateKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pairs[label] = pair
	if pair == nil {
		delete(t.pairs, label)
	}
}

// KeyPairs counts the key pairs on the token.
func (t *Token) KeyPairs() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pairs)
}

// Change edits the first object with a label in flash; false from edit removes it.
func (t *Token) Change(label string, edit func(*Object) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, f := range t.files {
		if f == nil || f.label != label {
			continue
		}
		o := Object{f.label, f.application, bytes.Clone(f.value), f.broken}
		if !edit(&o) {
			t.files[i] = nil
			return
		}
		f.label, f.application, f.value, f.broken = o.Label, o.Application, o.Value, o.Broken
		return
	}
}

func (t *Token) powerCut() {
	t.epoch++
	t.cutAt = 0
	creates, destroys := t.forgets.Creates, t.forgets.Destroys
	for i := len(t.journal) - 1; i >= 0; i-- {
		c := t.journal[i]
		switch {
		case c.created && creates > 0 && t.files[c.number] == c.file:
			creates--
			t.files[c.number] = nil
		case !c.created && destroys > 0:
			destroys--
			if t.files[c.number] == nil { // Else its place was taken, and it cannot come back.
				c.file.described, c.file.broken = true, t.forgets.Broken
				t.files[c.number] = c.file
			}
		}
	}
	t.journal = nil
}

// step does one effect, unless the power is cut before it; an answer that the
// power is cut before is an error too.
func (t *Token) step(function string, effect func()) error {
	t.steps++
	cut := t.cutAt > 0 && t.steps == t.cutAt
	if !cut || t.cutAfter {
		effect()
	}
	if cut {
		t.cut = true
		t.powerCut()
		return &pkcs11.Error{Op: function, Code: pkcs11.CKRGeneralError}
	}
	return nil
}

// free is the lowest free file number.
func (t *Token) free() int {
	for i, f := range t.files {
		if f == nil {
			return i
		}
	}
	t.files = append(t.files, nil)
	return len(t.files) - 1
}

func (t *Token) used() (objects, total int) {
	for _, f := range t.files {
		if f != nil && f.described {
			objects++
			total += len(f.value)
		}
	}
	return objects, total
}
