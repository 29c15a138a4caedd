// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// LogState is what came of the shadow when a store was opened.
type LogState string

const (
	// LogNone: none is kept.
	LogNone LogState = ""
	// LogNew: it was empty, and holds the store now.
	LogNew LogState = "New"
	// LogCurrent: it holds the store, and was used where the token does not.
	LogCurrent LogState = "Current"
	// LogStale: the token has been written to without it. It was dropped, and
	// holds the store as it was found on the token.
	LogStale LogState = "Stale"
	// LogForeign: it was of another store. As LogStale.
	LogForeign LogState = "Foreign"
)

// RecoveryReport is what opening or scrubbing a store brought to light.
type RecoveryReport struct {
	Log LogState
	// Restored are the labels of the objects that the token had lost, or did not
	// hold whole, and holds again.
	Restored []string
	// Quarantined are the labels of objects of ours that are not of the store:
	// damaged, or of another store. They are left alone, and take room.
	Quarantined []string
	// Superseded is the number of objects that CollectGarbage is going to destroy.
	Superseded int
	// Changed are the keys of records that others changed on the token since this
	// store was opened or scrubbed before. Only Scrub tells them.
	Changed []string
}

// RecoveryReport of the opening, or the last scrub.
func (s *Store) RecoveryReport() RecoveryReport { return s.findings }

// open goes from what the token lists to a store that is whole, on the token
// and in the shadow.
func (r *recovery) open(o Options) error {
	if err := r.identify(o, r.inv, r.mem); err != nil {
		return err
	}
	if r.findings.Log == LogCurrent {
		current, err := r.current()
		switch {
		case err != nil:
			return err
		case r.mem.store != r.keys.store:
			r.findings.Log = LogForeign
			r.mem = r.mem.forget()
		case !current:
			r.findings.Log = LogStale
			r.mem = r.mem.forget()
		}
	}
	if err := r.run(); err != nil {
		return err
	}
	r.reserved = max(r.mem.reserved, r.Head())
	r.findings.Superseded = r.Usage().Superseded
	if len(r.settled) > 0 {
		if err := r.note(r.settled...); err != nil {
			return &Error{Reason: LogFailed, Message: "what became of the last commit could not be noted", Err: err}
		}
	}
	if err := r.restore(); err != nil {
		return err
	}
	return r.syncShadow()
}

// restore writes to the token what it lost. Each unit gets its commit segment
// last, older units first: stopped anywhere, it goes on where it was. What was
// reported as not made is destroyed at once: without this shadow, nobody knows
// that it does not count.
func (r *recovery) restore() error {
	r.waste = append(r.refused, r.waste...)
	for range r.refused {
		for left := len(r.waste); len(r.waste) == left; {
			if err := r.destroyNext(); err != nil {
				return err
			}
		}
	}
	if r.lostKeyring {
		k, err := decodeKeyring(r.keyring)
		if err != nil {
			return orInternal(err, "decoding the store's own keyring")
		}
		if _, err := r.recreate(keyringLabel(k.generation), r.keyring); err != nil {
			return err
		}
	}
	for _, u := range r.units {
		for _, i := range slices.Backward(r.lost[u]) {
			handle, err := r.recreate(u.parts[i].Label, r.sealed[u][i])
			if err != nil {
				return err
			}
			u.parts[i].Handle = handle
		}
	}
	if len(r.replaced) > 0 {
		r.discard(0, false, r.replaced)
	}
	return nil
}

func (r *recovery) recreate(label string, value []byte) (pkcs11.Handle, error) {
	for r.objects >= r.profile.Objects && len(r.waste) > 0 {
		if err := r.destroyNext(); err != nil {
			return 0, err
		}
	}
	handle, err := r.dev.Create(label, application, value)
	switch class := pkcs11.ClassOf(err); {
	case class == pkcs11.ClassFull, class == pkcs11.ClassTooLarge:
		return 0, &Error{Reason: Full, Message: fmt.Sprintf("the token lost object %q, and refuses to take it back from the shadow. Make room on it, or move the shadow away to go on without what was lost", label), Err: err}
	case err != nil:
		return 0, fmt.Errorf("the token lost object %q, and it could not be created again from the shadow: %w", label, err)
	}
	r.objects++
	r.count(len(value))
	r.findings.Restored = append(r.findings.Restored, label)
	return handle, nil
}

// syncShadow makes the shadow hold the store, if it does not.
func (r *recovery) syncShadow() error {
	if r.shadow == nil || r.shadowIsWhole() {
		return nil
	}
	return r.rewriteShadow(r.mem, func(u *unit, i int) ([]byte, error) { return r.sealed[u][i], nil })
}

func (r *recovery) shadowIsWhole() bool {
	return r.findings.Log == LogCurrent && !r.shadow.Torn() && !r.bloated() &&
		string(r.mem.keyring) == string(r.keyring) &&
		!slices.ContainsFunc(r.units, func(u *unit) bool {
			b := r.mem.units[u.id]
			return b == nil || b.name != unitName{u.id, u.unit}
		})
}
