// SPDX-License-Identifier: Apache-2.0

// Package pinlatch owns the decision whether a PIN may be sent to a token, and
// the file that remembers it over crashes and restarts: a wrong PIN is tried
// once. It never keeps a PIN, and never decides for a person.
//
// What the file knows of a token's last PIN is one of these. Each change is on
// disk before the next step:
//
//	free ──────► under way ──────► free        the token accepted the PIN
//	                 │
//	                 ├───────────► held        the token rejected it: also in rejected, for good
//	                 └───────────► under way   a crash, or the token went away
//
//	free ─────────────────────────► held       the token reports a wrong PIN that was not ours
//	held, under way ──► under way              the PIN file holds another PIN, or a person gave permission
//	held ─────────────────────────► free       the token reports a full count of tries
//	under way ────────────────────► free       the same, of a token that is known to report them
//
// The PIN of a token that is held or was left under way is not sent, nor any
// that is in rejected, nor one to a token that reports its final try. How a
// token gets another PIN is in change.go.
package pinlatch

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pkcs11"
)

const (
	// fileName holds what is known of PINs.
	fileName = "pin-latch.json"
	// permissionName is the file by which a person allows one login.
	permissionName = "allow-login"
)

// Latch stands before the logins of one agent. Its directory has one user.
type Latch struct {
	dir string
	fs  atomicfile.FS
}

// New returns the latch whose files are in dir, which must exist.
func New(dir string, fs atomicfile.FS) *Latch { return &Latch{dir: dir, fs: fs} }

// Reason is why a PIN was not sent.
type Reason int

const (
	// ReasonRejected: the token rejected this PIN before.
	ReasonRejected Reason = iota + 1
	// ReasonOutcomeUnknown: this PIN was being sent when the agent or the token
	// went away, and it may have been wrong.
	ReasonOutcomeUnknown
	// ReasonCountLow: the token reports that somebody sent it a wrong PIN.
	ReasonCountLow
	// ReasonFinalTry: the token reports that one more wrong PIN locks it.
	ReasonFinalTry
	// ReasonLocked: the token reports that it takes no PIN any more.
	ReasonLocked
)

// RefusedError says that no login was made, why, and what to do.
type RefusedError struct {
	Reason         Reason
	Serial         string // Of the token.
	PermissionFile string // Path of the file by which a person allows one login.
}

func (e *RefusedError) Error() string {
	correct := fmt.Sprintf("correct the PIN file, or create %s to have the PIN in it sent once more", e.PermissionFile)
	switch e.Reason {
	case ReasonRejected:
		return fmt.Sprintf("token %q rejected this PIN, so it is not sent again: %s", e.Serial, correct)
	case ReasonOutcomeUnknown:
		return fmt.Sprintf("an earlier login to token %q with this PIN was cut off and may have failed, so it is not sent again: %s", e.Serial, correct)
	case ReasonCountLow:
		return fmt.Sprintf("token %q reports that a wrong PIN was sent to it, so no other is: %s", e.Serial, correct)
	case ReasonFinalTry:
		return fmt.Sprintf("one more wrong PIN locks token %q, so none is sent: check the PIN file, and create %s to have the PIN in it sent", e.Serial, e.PermissionFile)
	default:
		return fmt.Sprintf("token %q is locked: unblock it with its SO PIN", e.Serial)
	}
}

// Attempt calls login with the PIN, once, if that may be done, and remembers
// what came of it. The token's information must have been read just before. The
// error is a *RefusedError when login was not called for a reason that lies with
// the PIN; login's own error is in the chain when it was called.
func (l *Latch) Attempt(pin []byte, token pkcs11.TokenInfo, login func(pin []byte) error) error {
	file, err := l.load()
	if err != nil {
		return err
	}
	known, tag := file.of(token.Serial), file.tag(pin)
	known.settle(token)
	if reason := known.refuse(tag, token); reason != 0 {
		refused := &RefusedError{Reason: reason, Serial: token.Serial, PermissionFile: filepath.Join(l.dir, permissionName)}
		if reason == ReasonLocked {
			return refused
		}
		switch allowed, err := l.takePermission(refused.PermissionFile); {
		case err != nil:
			return err
		case !allowed && reason == ReasonCountLow && known.Last == nil:
			return errors.Join(refused, l.noteCountLow(file, known, tag))
		case !allowed:
			return refused
		}
	}

	known.Last = &attempt{PIN: tag, UnderWay: true}
	if err := l.save(file); err != nil {
		return err
	}
	err = login(pin)
	switch class := pkcs11.ClassOf(err); {
	case err == nil, class == pkcs11.ClassPINUnfit: // It was logged in for what failed then.
		known.accept(tag)
	case class == pkcs11.ClassPINRejected, class == pkcs11.ClassPINLocked:
		known.reject(tag)
		err = fmt.Errorf("token %q refused the PIN of the PIN file: %w", token.Serial, err)
	default:
		return err // The token may have seen the PIN: still under way.
	}
	return errors.Join(err, l.save(file))
}

// noteCountLow remembers the PIN that stood in the file when a low count was first seen,
// so that another one is known for another.
func (l *Latch) noteCountLow(m *latchFile, k *pinRecord, pin tag) error {
	k.Last = &attempt{PIN: pin}
	return l.save(m)
}

// takePermission uses up a person's permission to log in once.
func (l *Latch) takePermission(path string) (bool, error) {
	err := atomicfile.Remove(l.fs, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
