// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"k8s.io/utils/clock"

	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// DefaultHistory bounds the history unless Options say otherwise.
var DefaultHistory = mvcc.Limits{Events: 10_000, Bytes: 64 << 20, Age: 10 * time.Minute}

// DefaultScrubInterval is how often a store is scrubbed unless Options say otherwise.
const DefaultScrubInterval = 24 * time.Hour

const defaultCallTimeout = 2 * time.Minute

// Options say which token an agent serves, and to whom.
type Options struct {
	Module     string          // Absolute path of the PKCS#11 library.
	Token      pkcs11.Selector // Must match one token.
	PINFile    string          // The user's PIN. White space around it is ignored.
	NewPINFile string          // If it exists, the PIN that the token is to get. Both files hold their PIN until Status says that it was changed.
	SOPINFile  string          // The security officer's PIN; only to initialise a blank token.
	StateDir   string          // Of this agent alone. It exists.
	Provision  bool            // A blank token may be made into a new store.
	StoreID    string          // The store to serve, in hex; empty: that of the state directory, if any.
	// StoreIDHint is the store, in hex, that the token may hold if the state directory
	// names none. Another one is refused all the same, and a blank token is one.
	StoreIDHint string
	Profile     token.Profile // What the token holds. Zero: by what it says of itself.
	TLS         mtls.Files

	History mvcc.Limits // Zero: DefaultHistory.
	// ScrubInterval is how often the whole store is read from the token itself,
	// past what the module remembers: a login and one read of each object. Zero:
	// DefaultScrubInterval.
	ScrubInterval time.Duration
	CallTimeout   time.Duration      // After which a hanging token ends the process. Zero: 2 minutes.
	Clock         clock.PassiveClock // For revisions, the age of the history, and when to scrub. nil: the system's.

	onHang func(work string) // Instead of ending the process.
}

// complete fills in what was left out.
func (o Options) complete() (Options, error) {
	if info, err := os.Stat(o.StateDir); err != nil || !info.IsDir() {
		return o, fmt.Errorf("state directory %q does not exist: make it, for this agent alone", o.StateDir)
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.onHang == nil {
		o.onHang = exit
	}
	if o.History == (mvcc.Limits{}) {
		o.History = DefaultHistory
	}
	o.ScrubInterval = cmp.Or(o.ScrubInterval, DefaultScrubInterval)
	o.CallTimeout = cmp.Or(o.CallTimeout, defaultCallTimeout)
	return o, nil
}
