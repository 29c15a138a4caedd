// SPDX-License-Identifier: Apache-2.0

package pinlatch

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// change is a change of a token's PIN. Both PINs stay with the person who wants
// it, in two files, until it was made; the latch only knows which of them the
// token has:
//
//	none ──► under way ──► made ──► none        the token got the new PIN; later another one is accepted
//	             │
//	             ├───────► none                 the token did not take the new PIN, or rejected the old one
//	             └───────► under way            a crash, or the token went away: it has either of them
//
// Of a change under way the old PIN is sent first. If the token rejects it, the
// new one is certainly right; if it accepts it, the change was not made. So a
// crash costs at most one try, and no PIN is sent twice.
type change struct {
	From tag  `json:"from"`
	To   tag  `json:"to"`
	Made bool `json:"made,omitempty"`
}

// after is what is left of a change when a PIN was accepted.
func (c *change) after(k *pinRecord, accepted tag) *change {
	if c == nil || accepted != c.To {
		return nil
	}
	k.Rejected = append(without(k.Rejected, c.From), c.From)
	c.Made = true
	return c
}

// Login logs in with the one of two PINs that the token has, and returns it:
// next if the token got it by a change from pin, else pin. Only while a change
// is under way it may have to send both. next is nil when no change is wanted.
// info reads the token's information. Errors are as those of Attempt.
func (l *Latch) Login(pin, next []byte, info func() (pkcs11.TokenInfo, error), login func(pin []byte) error) (sent []byte, err error) {
	var rejected error
	for {
		token, err := info()
		if err != nil {
			return sent, err
		}
		chosen, err := l.choose(pin, next, token)
		if err != nil {
			return sent, err
		}
		if rejected != nil && bytes.Equal(chosen, sent) {
			return sent, rejected
		}
		sent = chosen
		if err = l.Attempt(sent, token, login); pkcs11.ClassOf(err) != pkcs11.ClassPINRejected || rejected != nil {
			return sent, err
		}
		rejected = err
	}
}

// choose returns the PIN to send: next if the token got it, or must have got
// it, for it rejected pin.
func (l *Latch) choose(pin, next []byte, token pkcs11.TokenInfo) ([]byte, error) {
	file, err := l.load()
	if err != nil {
		return nil, err
	}
	known := file.of(token.Serial)
	c := known.Change
	if c == nil || next == nil || file.tag(pin) != c.From || file.tag(next) != c.To {
		return pin, nil
	}
	// Of a login that was cut off, a low count of tries tells what came of it.
	lost := known.Last != nil && known.Last.UnderWay && known.Last.PIN == c.From && token.UserPINCountLow && reportsTries(token)
	if c.Made || lost || slices.Contains(known.Rejected, c.From) {
		return next, nil
	}
	return pin, nil
}

// Change calls set to give the token another PIN, and remembers what came of
// it. The session must have been logged in with from, and the token's
// information read just before. set's error is in the chain when it was called:
// of ClassPINUnfit, the token does not take the new PIN and has the old one; of
// another class than that and those of a rejected PIN, it has either of them.
func (l *Latch) Change(from, to []byte, token pkcs11.TokenInfo, set func(from, to []byte) error) error {
	file, err := l.load()
	if err != nil {
		return err
	}
	known, old := file.of(token.Serial), file.tag(from)
	if file.tag(to) == old {
		return errors.New("the new PIN is the old one, or cannot be told from it: choose another one")
	}
	known.settle(token)
	if reason := known.refuse(old, token); reason != 0 {
		return &RefusedError{Reason: reason, Serial: token.Serial, PermissionFile: filepath.Join(l.dir, permissionName)}
	}
	known.Last = &attempt{PIN: old, UnderWay: true}
	known.Change = &change{From: old, To: file.tag(to)}
	// Whatever the token said of it before: it is to be the right one.
	known.Rejected = without(known.Rejected, known.Change.To)
	if err := l.save(file); err != nil {
		return err
	}
	err = set(from, to)
	switch class := pkcs11.ClassOf(err); {
	case err == nil:
		known.accept(known.Change.To)
	case class == pkcs11.ClassPINUnfit:
		known.accept(old)
		err = fmt.Errorf("token %q does not take the new PIN: %w", token.Serial, err)
	case class == pkcs11.ClassPINRejected, class == pkcs11.ClassPINLocked:
		known.Change = nil
		known.reject(old)
		err = fmt.Errorf("token %q refused the PIN that it was to change: %w", token.Serial, err)
	default:
		return fmt.Errorf("it is not known whether token %q has its new PIN: %w", token.Serial, err)
	}
	return errors.Join(err, l.save(file))
}
