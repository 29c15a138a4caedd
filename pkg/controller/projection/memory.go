// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const (
	// refusedInterval is the time between two looks at a Secret of others. It may
	// not be watched: it lacks the label.
	refusedInterval = 10 * time.Second
	// settleTime is how long the watch may take to show a Secret that was written.
	settleTime = 3 * time.Second
	// answerBurst edits or deletions of a Secret are answered at once, then one in
	// each answerInterval: someone insists, and tokens wear by being written.
	answerBurst    = 20
	answerInterval = 10 * time.Second
)

// version names a state of a Secret. Without a uid there is none.
type version struct {
	uid             types.UID
	resourceVersion string
}

func versionOf(secret metav1.Object) version {
	return version{secret.GetUID(), secret.GetResourceVersion()}
}

// memory is what is remembered of an HSMSecret and its Secret from one look to
// the next: no value, and nothing that could not be found out again.
type memory struct {
	known      bool // There was a look that succeeded.
	stale      bool // The last one did not.
	uid        types.UID
	generation int64
	request    string

	secretName string
	secret     version
	settled    time.Time // From then on the watches show what was written.
	refused    bool      // It is of others.
	next       time.Time // The next look without a cause.

	status   *v1alpha1.HSMSecretStatus // As the API server has it; nil is not known.
	givesWay bool                      // Others go first.
	failing  bool                      // An event has said so.
	lost     string                    // An edit, of which no status tells yet.
	revision string
	answers  *rate.Limiter
}

// look says why, and so how thoroughly, an HSMSecret is looked at.
type look int

const (
	lookNot     look = iota
	lookLater        // The watches do not show yet what was written.
	lookStatus       // The agent has lost the status: it is restored from memory.
	lookRefused      // Whether the Secret of others is still there, and theirs.
	lookSource       // Whether the token has changed unnoticed.
	lookAll
)

// look decides by what the watches show: secret is that of the remembered name,
// shown the uid of the one that was shown last.
func (m *memory) look(h metav1.Object, secret version, shown types.UID, now time.Time) look {
	switch {
	case !m.known, m.stale, m.uid != h.GetUID(), m.generation < h.GetGeneration(), m.request != h.GetAnnotations()[SyncAnnotation]:
		return lookAll
	case m.refused && !now.Before(m.next):
		return lookRefused
	case !m.refused && m.secret.uid != "" && secret.uid == "" && shown != m.secret.uid && now.Before(m.settled):
		return lookLater
	case !m.refused && m.secret.isBefore(secret):
		return lookAll
	case !now.Before(m.next):
		return lookSource
	case !hasStatus(h) && now.Before(m.settled):
		return lookLater
	case !hasStatus(h):
		return lookStatus
	}
	return lookNot
}

// isBefore tells whether the watch shows another state than the one that was
// written or read last, and not merely an older one.
func (v version) isBefore(seen version) bool {
	if v.uid != seen.uid {
		return true
	}
	order, err := resourceversion.CompareResourceVersion(v.resourceVersion, seen.resourceVersion)
	return v != seen && (err != nil || order < 0)
}

// memories are those of all HSMSecrets that were seen. The work queue sees to it
// that only one goroutine has that of an HSMSecret.
type memories struct {
	mu    sync.Mutex
	of    map[types.NamespacedName]*memory
	shown map[types.NamespacedName]types.UID
}

func newMemories() *memories {
	return &memories{of: map[types.NamespacedName]*memory{}, shown: map[types.NamespacedName]types.UID{}}
}

func (m *memories) get(name types.NamespacedName) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of[name] == nil {
		m.of[name] = &memory{answers: rate.NewLimiter(rate.Every(answerInterval), answerBurst)}
	}
	return m.of[name]
}

func (m *memories) forget(name types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, name)
	delete(m.shown, name)
}

// show notes that the watch has shown a Secret of an HSMSecret, or its end.
func (m *memories) show(name types.NamespacedName, secret types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shown[name] = secret
}

func (m *memories) lastShown(name types.NamespacedName) types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shown[name]
}
