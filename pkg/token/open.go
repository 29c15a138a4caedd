// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/wal"
)

// Options say what Open may find and do.
type Options struct {
	// Provision lets Open make a store on a blank token. It has no effect when
	// StoreID is set: a token that was wiped is not silently begun anew.
	Provision bool
	// StoreID is the store that the caller serves, in hex; empty if none yet.
	// After provisioning the caller keeps ID before it commits anything.
	StoreID string
	// Profile is the limits to keep; if it is zero, those of ProfileFor.
	Profile Profile
	// Log is where the store is noted beside the token, sealed as on it, before
	// the token is touched. With it recovery brings back what the token lost
	// after it said that it was stored. It is of this token alone.
	Log *wal.Log
	// Adopt, if it is not nil, lets Open make the store of another id that is on
	// the token into the store StoreID.
	Adopt *Adoption
}

// Open finds the store on a token, or makes one, and recovers it. What it
// cannot read, authenticate or account for makes it fail with a reason; it
// never gives a part of a store. It reads each segment once. It writes only what
// the token lost and the log holds, and only after the whole store was found on
// the two together; and destroys only what was superseded, to make space for that,
// and what was reported as not made.
//
// Before it, the session's module has to be re-initialised if an earlier store
// failed with OutcomeUnknown: some modules answer from memory.
func Open(dev Device, o Options) (*Store, error) {
	p, err := newOpener(dev, o)
	if err != nil {
		return nil, err
	}
	id, err := p.identify()
	if err != nil {
		return nil, err
	}
	if err := p.countKeys(); err != nil {
		return nil, err
	}
	store, damage, err := p.recover(id)
	if err != nil {
		return nil, err
	}
	if err := damage.repair(store); err != nil {
		return nil, err
	}
	if o.Adopt != nil && store.ID() != o.StoreID {
		if err := store.adopt(o); err != nil {
			return nil, err
		}
	}
	return store, nil
}

// opener is what is known while a store is opened, and only then.
type opener struct {
	dev     Device
	options Options
	profile Profile
	listing *listing
	values  *values
	replay  *wal.Replay // nothing, if there is no log or the token has moved past it

	garbage garbage
	space   space
	keys    int
	report  RecoveryReport
}

// newOpener lists the token and reads the log.
func newOpener(dev Device, o Options) (*opener, error) {
	p := &opener{dev: dev, options: o, profile: o.Profile, values: &values{dev: dev, read: map[pkcs11.Handle]reading{}}}
	if p.profile == (Profile{}) {
		p.profile = ProfileFor(dev.Info())
	}
	objects, err := dev.Objects()
	if err != nil {
		return nil, fmt.Errorf("listing the token's objects: %w", err)
	}
	if p.listing, err = newListing(objects); err != nil {
		return nil, err
	}
	p.space.objects = p.listing.objects
	return p, p.readLog()
}

// countKeys lowers the limits to what keys and certificates leave.
func (p *opener) countKeys() error {
	keys, err := p.dev.CountKeys()
	if err != nil {
		return fmt.Errorf("counting the token's keys: %w", err)
	}
	p.profile, p.keys = p.profile.beside(keys), keys
	return nil
}

func (p *opener) readLog() (err error) {
	p.replay = wal.NewReplay()
	if p.options.Log == nil {
		return nil
	}
	if p.replay, err = p.options.Log.Replay(); err != nil {
		return &Error{Reason: LogFailed, Message: "the token's write-ahead log cannot be used", Err: err}
	}
	p.report.Log = LogNew
	if p.replay.Keyring != nil {
		p.report.Log = LogCurrent
	}
	return nil
}

// store is the store that was found.
func (p *opener) store(id *identity, x *index) *Store {
	return &Store{
		dev: p.dev, options: p.options, profile: p.profile, sealer: id.sealer, keyring: id.keyring, log: p.options.Log,
		index: x, garbage: p.garbage, space: p.space, foreign: p.listing.foreign, keys: p.keys, legacy: p.listing.legacy,
		attempted: max(x.head(), p.replay.Highest()), reserved: max(p.replay.Reserved, x.head()),
		report: p.report,
	}
}

// discard leaves objects, which were not counted yet, to the collector.
func (p *opener) discard(id uint64, superseded bool, objects ...segmentObject) {
	o := newObsolete(id, superseded, objects, p.profile)
	p.space.bytes += o.bytes()
	p.garbage.obsolete = append(p.garbage.obsolete, o)
}

// quarantine leaves an object of ours that is not of the store where it is: it
// may be of use to a person.
func (p *opener) quarantine(o pkcs11.Object) {
	p.report.Quarantined = append(p.report.Quarantined, o.Label)
}
