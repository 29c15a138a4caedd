// SPDX-License-Identifier: Apache-2.0

package token

import "j5t.io/hsm/pkg/memlock"

// LockKeys keeps the keys of the store from being written to swap. An error
// means that the kernel does not allow it.
func (s *Store) LockKeys() error { return memlock.Lock(s.keys.aeads) }
