// SPDX-License-Identifier: Apache-2.0

package records

import "time"

// SetBookmarkInterval makes bookmarks more frequent. It is for a store without watches.
func (s *Store) SetBookmarkInterval(d time.Duration) { s.bookmarkInterval = d }
