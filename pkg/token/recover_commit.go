// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
	"j5t.io/hsm/pkg/token/wal"
)

// segmentCopy is an authentic segment, and its piece of the commit's payload. It is
// zero where the token holds none.
type segmentCopy struct {
	object       pkcs11.Object
	value, piece []byte
}

// sortedSegments is what the token holds of a commit.
type sortedSegments struct {
	nonce  format.Nonce
	copies []segmentCopy // by part number, of all parts that the commit has; nil if none is known
	// extra are segments that are there twice, or of a commit that was aborted.
	extra []segmentObject
	// torn are those that cannot be read or authenticated; failure is why, of the first.
	torn    []segmentObject
	failure error
}

// readCommit reads and authenticates all objects of a commit. Parts that the token
// does not hold whole are taken from the log's copy, if there is one.
func (r *recovery) readCommit(id uint64, objects []segmentObject, logged *wal.Commit) (*commit, *format.Payload, error) {
	found, err := r.sortSegments(id, objects, logged)
	if err != nil {
		return nil, nil, err
	}
	if logged == nil && (len(found.copies) == 0 || found.copies[0].value == nil) {
		return nil, nil, found.failure // its commit segment is not whole
	}
	c := &commit{id: id, nonce: found.nonce}
	content, err := r.assemble(c, found, logged)
	if err != nil {
		if found.failure != nil {
			err = found.failure
		}
		return nil, nil, err
	}
	p, err := format.DecodePayload(id, content)
	clear(content)
	if err != nil {
		return nil, nil, corruptObject(c.parts[0].Label, err)
	}
	if len(found.extra) > 0 {
		r.discard(id, false, found.extra...)
	}
	if logged != nil {
		if len(found.torn) > 0 {
			r.damage.replaced = append(r.damage.replaced, newObsolete(id, false, found.torn, r.profile))
		}
	} else if len(found.torn) > 0 {
		r.doubtful = append(r.doubtful, doubt{found.torn, found.failure})
	}
	return c, p, nil
}

// sortSegments reads the objects of a commit. The log says which commit of the id it
// is; without it, the first object that is authentic does.
func (r *recovery) sortSegments(id uint64, objects []segmentObject, logged *wal.Commit) (found sortedSegments, err error) {
	if logged != nil {
		found.nonce, found.copies = logged.Name.Nonce, make([]segmentCopy, len(logged.Segments))
	}
	for _, o := range objects {
		value, err := r.values.of(o.Object)
		if err != nil && ReasonOf(err) != Corrupt {
			return found, err
		}
		var h format.Header
		var piece []byte
		if err == nil {
			h, piece, err = r.openAt(value, id, o.part)
		}
		if err == nil && found.copies != nil && h.Nonce == found.nonce && int(h.Parts) != len(found.copies) {
			err = fmt.Errorf("it is of a commit of %d parts, and the others of one of %d", h.Parts, len(found.copies))
		}
		if err != nil {
			found.torn = append(found.torn, o)
			if found.failure == nil {
				found.failure = corruptObject(o.Label, err)
			}
			continue
		}
		if found.copies == nil {
			found.nonce, found.copies = h.Nonce, make([]segmentCopy, h.Parts)
		}
		if logged == nil && o.part == 0 && h.Nonce != found.nonce {
			return found, corruptObject(o.Label, fmt.Errorf("there are two different commits %016x", id))
		}
		if h.Nonce != found.nonce || found.copies[o.part].value != nil {
			clear(piece)
			found.extra = append(found.extra, o)
			continue
		}
		found.copies[o.part] = segmentCopy{o.Object, value, piece}
	}
	return found, nil
}

// openAt opens a segment that has to be a part of a commit.
func (r *recovery) openAt(value []byte, id uint64, part uint16) (format.Header, []byte, error) {
	h, piece, err := r.sealer.Open(value)
	if err == nil && (h.Commit != id || h.Part != part) {
		err = misplaced(h)
	}
	return h, piece, err
}

// assemble puts the parts of a commit together.
func (r *recovery) assemble(c *commit, found sortedSegments, logged *wal.Commit) (content []byte, err error) {
	for i, s := range found.copies {
		switch {
		case s.value != nil:
			r.space.bytes += len(s.value)
		case logged == nil:
			return nil, errorf(Corrupt, "of the %d parts of commit %016x, number %d is missing. Nothing was changed; restore it from the write-ahead log or a mirror", len(found.copies), c.id, i)
		default:
			label := format.SegmentLabel(c.id, uint16(i))
			_, piece, err := r.openAt(logged.Segments[i], c.id, uint16(i))
			if err != nil {
				return nil, corruptObject("in the log, of "+label, err)
			}
			s = segmentCopy{pkcs11.Object{Label: label, Application: format.Application}, logged.Segments[i], piece}
			r.damage.lost[c] = append(r.damage.lost[c], i)
		}
		c.parts = append(c.parts, part{object{s.object, len(s.value)}, len(content), len(s.piece)})
		r.damage.sealed[c] = append(r.damage.sealed[c], s.value)
		content = append(content, s.piece...)
		clear(s.piece)
	}
	return content, nil
}
