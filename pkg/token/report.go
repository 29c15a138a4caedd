// SPDX-License-Identifier: Apache-2.0

package token

// LogState is what came of the write-ahead log when a store was opened.
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
	// damaged, or of another store. They are left alone, and take space.
	Quarantined []string
	// Stuck are the labels of objects that have no say, and that the token refuses to
	// destroy although it answers. They take slots until it is initialised anew. Each
	// opening tries again.
	Stuck []string
	// Superseded is the number of objects that CollectGarbage is going to destroy.
	Superseded int
	// Changed are the keys of records that others changed on the token since this
	// store was opened or scrubbed before. Only Scrub reports them.
	Changed []string
}

// RecoveryReport of the opening, or the last scrub; but Stuck is as of now.
func (s *Store) RecoveryReport() RecoveryReport {
	report := s.report
	for _, o := range s.garbage.stuck {
		report.Stuck = append(report.Stuck, o.label)
	}
	return report
}
