// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
	"j5t.io/hsm/pkg/token/wal"
)

// maxSuperseded limits how many superseded commits a commit lists.
const maxSuperseded = 64

// commitState is how far a commit has come:
//
//	drafted ────► logged ────► written ────► made
//	   │            │
//	   ├────────────┼────► failed        it was not made, and never will be
//	   └────────────┴────► unresolved    the next recovery decides
//
// Each state but the last three is left by one step, and in this order: a commit is
// on the disk before the token is touched, and nobody can read it before it is on the
// token. What is told to the caller of a commit that failed or is unresolved is on
// the disk before it is told.
type commitState int

const (
	// drafted: it is encoded and sealed. Nobody knows of it.
	drafted commitState = iota
	// logged: the log holds it. Recovery would make it.
	logged
	// written: the token holds it, and so it is durable.
	written
	// made: the index has its records.
	made
	// failed: the log or the token refused it. If it was logged, so is its failure.
	failed
	// unresolved: it may be on the token, or in the log, or not. The store is stale.
	unresolved
)

// pendingCommit is a commit on its way.
type pendingCommit struct {
	state      commitState
	err        error // why it failed, or is unresolved
	commit     *commit
	segments   [][]byte
	superseded []*commit
	records    []format.LocatedRecord
}

// Commit makes changes durable, all or none. Their revisions are strictly
// ascending, above Reserved as it was when the store was opened and above those of
// all earlier calls, failed ones included. The last one is the id of the commit.
// Its cost is one create on the token, and more only if
// the changes together are longer than a segment.
//
// TooLarge, Full, LogFailed, Invalid and Internal are found before the token
// is touched. After Full there is space once LacksSpace says so, and may be when
// CollectGarbage and Compact have nothing more to do. After OutcomeUnknown or an error of the device every call
// fails until the store is opened again; an error of the device means that nothing
// was changed.
func (s *Store) Commit(changes []Change) error {
	if s.stale != nil {
		return s.staleError()
	}
	if len(changes) == 0 {
		return nil
	}
	if err := s.validate(changes); err != nil {
		return err
	}
	p, err := s.draft(changes[len(changes)-1].Record.Revision, changes)
	if err != nil {
		return err
	}
	r := s.reservationFor(changes, p.commit)
	if err := s.reserveSpace(r); err != nil {
		return err
	}
	if err := s.make(p); err != nil {
		return err
	}
	s.compaction = compaction{wanted: s.following(r)}
	return nil
}

// validate finds what is wrong with changes by themselves.
func (s *Store) validate(changes []Change) error {
	last := s.attempted
	for _, c := range changes {
		r := c.Record
		switch {
		case r.Revision <= last:
			return errorf(Internal, "revision %d of record %q is not above %d", r.Revision, r.Key, last)
		case r.Key == "" || len(r.Key) > format.MaxKeyBytes || len(r.Address) > format.MaxKeyBytes:
			return errorf(Invalid, "record %q: its key and address may have 1 to %d bytes", r.Key, format.MaxKeyBytes)
		case r.DataRevision > r.Revision:
			return errorf(Internal, "record %q: its data revision %d is above its revision %d", r.Key, r.DataRevision, r.Revision)
		}
		last = r.Revision
		if length := len(r.Data); length > s.profile.RecordBytes {
			return s.tooLarge(r.Key, length)
		}
		if len(r.Meta) > format.MaxMetaBytes {
			return errorf(TooLarge, "record %q has %d bytes of metadata, and the format allows %d", r.Key, len(r.Meta), format.MaxMetaBytes)
		}
	}
	return nil
}

func (s *Store) tooLarge(key string, length int) error {
	return errorf(TooLarge, "record %q takes %d bytes, and a token of profile %s holds at most %d in one record", key, length, s.profile.Name, s.profile.RecordBytes)
}

// draft encodes and seals a commit.
func (s *Store) draft(id uint64, changes []Change) (*pendingCommit, error) {
	superseded := s.supersedable()
	payload := s.payloadOf(changes, superseded)
	pieces := payload.Encode(id, s.profile.SegmentBytes-format.SealOverhead)
	for _, r := range payload.Records {
		if r.Length > s.profile.RecordBytes {
			return nil, s.tooLarge(r.Record.Key, r.Length)
		}
	}
	if len(pieces) > format.MaxParts {
		return nil, errorf(TooLarge, "the change takes %d objects, and the format allows %d", len(pieces), format.MaxParts)
	}
	nonce, segments := s.sealer.Seal(id, pieces)
	c := &commit{id: id, nonce: nonce}
	start := 0
	for i, piece := range pieces {
		o := object{pkcs11.Object{Label: format.SegmentLabel(id, uint16(i)), Application: format.Application}, len(segments[i])}
		c.parts = append(c.parts, part{o, start, len(piece)})
		start += len(piece)
		clear(piece)
	}
	return &pendingCommit{commit: c, segments: segments, superseded: superseded, records: payload.Records}, nil
}

// supersedable are the dead commits that no commit lists yet, as many as the next
// one may list. They could be listed by the very commit that takes their last
// record; but tokens lose the last create, and then the old record is better than
// none.
func (s *Store) supersedable() []*commit {
	free := maxSuperseded - s.garbage.named() // Stuck ones come on top.
	var dead []*commit
	for _, c := range s.index.commits {
		if c.dead() && len(dead) < free {
			dead = append(dead, c)
		}
	}
	return dead
}

// payloadOf is the payload of a commit by which these others are superseded.
func (s *Store) payloadOf(changes []Change, superseded []*commit) *format.Payload {
	remaining := slices.DeleteFunc(slices.Clone(s.index.commits), func(c *commit) bool { return slices.Contains(superseded, c) })
	p := &format.Payload{Live: uint64(len(remaining)), Digest: format.DigestOf(idsOf(remaining))}
	p.Superseded = s.garbage.superseded(idsOf(superseded))
	for _, c := range changes {
		p.Records = append(p.Records, format.LocatedRecord{Change: c})
	}
	return p
}

// make takes a commit through its states to the end.
func (s *Store) make(p *pendingCommit) error {
	for {
		switch p.state {
		case drafted:
			s.writeLog(p)
		case logged:
			s.writeToken(p)
		case written:
			s.enter(p)
		default:
			return p.err
		}
	}
}

// writeLog: drafted → logged, failed, unresolved.
func (s *Store) writeLog(p *pendingCommit) {
	err := s.logCommit(p.commit, p.segments)
	switch {
	case err == nil:
		p.state = logged
		s.reserved = max(s.reserved, p.commit.id)
	case ReasonOf(err) == OutcomeUnknown:
		p.state, p.err = unresolved, err
		s.stale = err
	default:
		p.state, p.err = failed, err
	}
}

// writeToken: logged → written, failed, unresolved. The commit segment is the last
// one to be created, and its creation the commit.
func (s *Store) writeToken(p *pendingCommit) {
	c := p.commit
	s.attempted = c.id
	for i := len(p.segments) - 1; i >= 0; i-- {
		o := &c.parts[i]
		handle, err := s.dev.Create(o.Label, o.Application, p.segments[i])
		if err != nil {
			if handle, err = s.resolve(p, i, err); err != nil {
				p.err = err
				return
			}
		}
		o.Handle = handle
		s.space = s.space.add(space{1, o.bytes})
		if o.bytes >= s.refused {
			s.refused = 0
		}
	}
	p.state = written
}

// enter: written → made.
func (s *Store) enter(p *pendingCommit) {
	for _, c := range p.superseded {
		s.index.drop(c)
		s.garbage.add(c, 0)
	}
	s.index.put(p.commit, p.records)
	p.state = made
}

// resolve finds out what became of a part whose creation failed: its handle, or the
// commit's last state and the error of that.
//
// A listing that shows the object is proof. One that does not is none, for some
// modules list from memory; unless the token, which answers, refused the object. (The
// codes by which it does that are also those of a lost token, so without a log, which
// keeps a hidden object down, they are no proof.) Then the commit was not made; its id
// goes on the list of superseded commits, so that it never will be.
func (s *Store) resolve(p *pendingCommit, i int, failure error) (pkcs11.Handle, error) {
	c, o := p.commit, p.commit.parts[i]
	if reason, certain := refusal(s.dev, failure); reason != 0 && (certain || s.log != nil) {
		objects, err := s.dev.Objects()
		if handle, ok := s.findNew(objects, o.Label); ok {
			return handle, nil
		}
		if err == nil {
			return 0, s.abort(p, failure, func() error {
				s.garbage.add(c, i+1)
				return s.refuse(reason, o.object, failure)
			})
		}
	}
	if i > 0 {
		return 0, s.abort(p, failure, func() error {
			s.stale = failure
			return fmt.Errorf("nothing was changed: creating object %q: %w", o.Label, failure)
		})
	}
	if err := appendToLog(s.log, wal.Unresolved(c.name())); err != nil {
		// Then recovery makes the commit, if the token has not.
		failure = errors.Join(failure, err)
	}
	return 0, s.leaveUnresolved(p, failure)
}

// refusal is the reason for which the token did not create an object; 0 if it may be
// that the token is lost, or the login. certain reports whether the code means nothing
// else.
func refusal(dev Device, failure error) (reason Reason, certain bool) {
	switch class := pkcs11.ClassOf(failure); {
	case class == pkcs11.ClassTooLarge:
		return TooLarge, true
	case class == pkcs11.ClassFull:
		return Full, true
	case pkcs11.MayBeRefusal(failure) && answers(dev):
		return Full, false
	}
	return 0, false
}

func isRefusal(dev Device, err error) bool {
	if err == nil {
		return false
	}
	reason, _ := refusal(dev, err)
	return reason != 0
}

// refuse is the error of a commit of which the token refused an object.
func (s *Store) refuse(reason Reason, o object, failure error) error {
	s.refused = o.bytes
	u := s.Usage()
	return &Error{Reason: reason, Message: fmt.Sprintf("the token refused object %q of %d bytes, which fits profile %s, though it holds %d objects of %d: its flash is fragmented, or it holds less than the profile says. Nothing was changed. Deleting HSMSecrets may make space; else choose a smaller profile",
		o.Label, o.bytes, s.profile.Name, u.Objects, s.profile.Objects), Err: failure}
}

// abort: logged → failed, or unresolved if the failure cannot be noted. then does
// what is left to do when it is, and returns the error.
func (s *Store) abort(p *pendingCommit, failure error, then func() error) error {
	if err := appendToLog(s.log, wal.Failed(p.commit.name())); err != nil {
		return s.leaveUnresolved(p, errors.Join(failure, err))
	}
	p.state = failed
	return then()
}

func (s *Store) leaveUnresolved(p *pendingCommit, failure error) error {
	p.state = unresolved
	s.stale = failure
	return &Error{Reason: OutcomeUnknown, Message: fmt.Sprintf("it is not known whether commit %016x was made", p.commit.id), Err: failure}
}

// findNew looks for an object that the store has just tried to create.
func (s *Store) findNew(objects []pkcs11.Object, label string) (pkcs11.Handle, bool) {
	for _, o := range objects {
		if o.Label == label && o.Application == format.Application && !s.garbage.holds(o.Handle) {
			return o.Handle, true
		}
	}
	return 0, false
}
