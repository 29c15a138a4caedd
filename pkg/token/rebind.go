// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
)

// rebind goes on with a store as it was, through the device of a new session, whose
// handles are others. It fails unless the token holds every segment of the store and
// nothing of the format that the store does not know: else somebody has written to
// it, or has taken from it, and what is served would not be what the token holds.
func (s *Store) rebind(dev Device) error {
	objects, err := dev.Objects()
	if err != nil {
		return fmt.Errorf("listing the token's objects: %w", err)
	}
	listed, err := newListing(objects)
	if err != nil {
		return err
	}
	keyring, err := format.DecodeKeyring(s.keyring)
	if err != nil {
		return err
	}
	if len(listed.keyrings) == 0 || listed.keyrings[0].Label != format.KeyringLabel(keyring.Generation) {
		return errors.New("the token holds another keyring")
	}
	handles := map[string]pkcs11.Handle{}
	for _, parts := range listed.commits {
		for _, p := range parts {
			if _, twice := handles[p.Label]; twice {
				return fmt.Errorf("the token holds two objects %q", p.Label)
			}
			handles[p.Label] = p.Handle
		}
	}
	take := func(label string) (pkcs11.Handle, bool) {
		handle, ok := handles[label]
		delete(handles, label)
		return handle, ok
	}
	commits := make([][]pkcs11.Handle, len(s.index.commits))
	for i, c := range s.index.commits {
		for _, p := range c.parts {
			handle, ok := take(p.Label)
			if !ok {
				return fmt.Errorf("the token has lost object %q", p.Label)
			}
			commits[i] = append(commits[i], handle)
		}
	}
	var garbage []obsolete
	for _, o := range s.garbage.obsolete {
		left := obsolete{id: o.id, superseded: o.superseded}
		for _, object := range o.objects {
			if handle, ok := take(object.Label); ok { // Else the scrub has destroyed it.
				object.Handle = handle
				left.objects = append(left.objects, object)
			}
		}
		garbage = append(garbage, left)
	}
	for _, label := range s.report.Quarantined {
		take(label)
	}
	for label := range handles {
		return fmt.Errorf("the token holds object %q, which is not of the store", label)
	}

	gone := s.garbage.space()
	s.garbage.obsolete = garbage
	s.space = s.space.sub(gone).add(s.garbage.space())
	s.space.objects = listed.objects
	for i, c := range s.index.commits {
		for part := range c.parts {
			c.parts[part].Handle = commits[i][part]
		}
	}
	s.dev, s.foreign, s.legacy, s.compaction = dev, listed.foreign, listed.legacy, compaction{}
	return nil
}
