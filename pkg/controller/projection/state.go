// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const (
	// watchLag is how long the watch may take to show a Secret that was written.
	watchLag = 3 * time.Second
	// editBurst edits or deletions of a Secret are answered at once, then one in each
	// editInterval: every push writes the token, and tokens wear.
	editBurst    = 20
	editInterval = 10 * time.Second
)

// syncState is what is kept of an HSMSecret and its Secret from one sync to the next: no
// value, and nothing that could not be found out again.
type syncState struct {
	synced     bool // A sync has succeeded.
	stale      bool // The last one has not.
	uid        types.UID
	generation int64
	revision   string
	request    string

	secretName string
	secret     version
	foreign    bool   // It belongs to others.
	holder     string // The HSMSecret that it belongs to, if it does.
	waiting    bool   // It has to be made again, and waits for its finalizers.
	races      int    // How often others have written during a pass, since the last success.

	watchesCurrentAt time.Time // From then on the watches show what was written.
	nextCheck        time.Time // When to check though nothing seems to have changed.

	status          *v1alpha1.HSMSecretStatus // As the API server has it; nil is not known.
	yielded         bool                      // Others went first when the status was to be restored.
	failureReported bool                      // By an Event.
	lostEdit        string                    // An edit that was overwritten, and is in no status yet.
	kept            *kept                     // Of a Secret that has to be made again.
	edits           *rate.Limiter
}

// isOfAnother reports whether the state is that of an earlier HSMSecret of the same name.
// The watch need not have shown the time between them.
func (s *syncState) isOfAnother(uid types.UID) bool { return s.uid != "" && s.uid != uid }

// reset forgets all but the limit of edits.
func (s *syncState) reset() { *s = syncState{edits: s.edits} }

// isUnchanged reports whether the token holds what was synced last.
func (s *syncState) isUnchanged(h *v1alpha1.HSMSecret) bool {
	return s.uid == h.UID && s.generation == h.Generation && s.revision == h.Status.DataVersion && isSame(*s.status, h.Status)
}

// update takes over what a pass has found and written.
func (s *syncState) update(p *pass, status v1alpha1.HSMSecretStatus, wrote bool, now time.Time) {
	s.synced, s.stale, s.failureReported, s.lostEdit = true, false, false, ""
	s.uid, s.generation, s.revision = p.hsm.UID, p.hsm.Generation, p.hsm.Status.DataVersion
	s.request = p.hsm.Annotations[SyncAnnotation]
	s.secretName, s.secret, s.foreign = p.hsm.SecretName(), version{}, p.isForeign()
	s.holder, s.waiting, s.races = "", p.final.reason == reasonSecretTerminating, 0
	if p.secret != nil {
		s.secret, s.holder = versionOf(p.secret), p.facts.secret.ownerName
	}
	s.status = &status
	if wrote {
		s.watchesCurrentAt = now.Add(watchLag)
	}
	s.nextCheck = now.Add(interval(p.hsm))
	if s.foreign || s.waiting {
		s.nextCheck = now.Add(foreignInterval)
	}
}

// syncStates are those of all HSMSecrets. The work queue sees to it that only one
// goroutine has that of an HSMSecret.
type syncStates struct {
	mu          sync.Mutex
	states      map[types.NamespacedName]*syncState
	secretsSeen map[types.NamespacedName]types.UID
}

func newSyncStates() *syncStates {
	return &syncStates{states: map[types.NamespacedName]*syncState{}, secretsSeen: map[types.NamespacedName]types.UID{}}
}

// get returns the state of an HSMSecret, and the uid of its Secret that the watch has
// shown last.
func (s *syncStates) get(name types.NamespacedName) (state *syncState, secretSeen types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[name] == nil {
		s.states[name] = &syncState{edits: rate.NewLimiter(rate.Every(editInterval), editBurst)}
	}
	return s.states[name], s.secretsSeen[name]
}

func (s *syncStates) forget(name types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.states, name)
	delete(s.secretsSeen, name)
}

// secretShown records that the watch has shown the Secret of an HSMSecret, or its end.
func (s *syncStates) secretShown(name types.NamespacedName, secret types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secretsSeen[name] = secret
}
