// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// An observation is what the watches show of an HSMSecret and its Secret, and what is
// kept from the last sync. It costs no request.
type observation struct {
	hsm    metav1.Object // Nil: there is none, or it is being deleted.
	secret version       // Of the Secret that was synced last.
	// secretSeen is the Secret that the watch has shown last, be it by its deletion.
	secretSeen types.UID
	state      *syncState
	now        time.Time
}

// A task is how much is to be done about an HSMSecret.
type task string

const (
	// taskForget: the HSMSecret is gone. What becomes of the Secret is for the garbage
	// collector, which asks whether the owner is really gone.
	taskForget task = "Forget"
	// taskNone: nothing has changed since the last sync.
	taskNone task = "None"
	// taskAwaitWatch: the watches do not show yet what was written.
	taskAwaitWatch task = "AwaitWatch"
	// taskYield: as taskRestoreStatus, but others go first. The agent loses all statuses
	// at once, and people wait for other things.
	taskYield task = "Yield"
	// taskRestoreStatus: the agent has lost the status, which is still known here.
	taskRestoreStatus task = "RestoreStatus"
	// taskCheckForeign: is the Secret that belongs to others, or waits for its finalizers,
	// still there, and as it was?
	taskCheckForeign task = "CheckForeign"
	// taskResync: the interval is over. Has the token changed unnoticed?
	taskResync task = "Resync"
	// taskSync: something has changed, or the last sync has failed.
	taskSync task = "Sync"
)

// decideTask is a pure function: the first case that applies decides.
func decideTask(o observation) task {
	if o.hsm == nil {
		return taskForget
	}
	s, due, foreign := o.state, !o.now.Before(o.state.nextCheck), o.state.foreign
	watchesLag := o.now.Before(o.state.watchesCurrentAt)
	secretVanished := s.secret.uid != "" && o.secret.uid == ""
	switch {
	case !s.synced, s.stale, s.uid != o.hsm.GetUID(), s.generation < o.hsm.GetGeneration(), s.request != o.hsm.GetAnnotations()[SyncAnnotation]:
		return taskSync
	case (foreign || s.waiting) && due:
		return taskCheckForeign
	case !foreign && secretVanished && o.secretSeen != s.secret.uid && watchesLag:
		return taskAwaitWatch
	case !foreign && s.secret.isBefore(o.secret):
		return taskSync
	case due:
		return taskResync
	case hasStatus(o.hsm):
		return taskNone
	case watchesLag:
		return taskAwaitWatch
	case !s.yielded:
		return taskYield
	}
	return taskRestoreStatus
}

// sendsRequests reports whether a task needs the API server.
func (t task) sendsRequests() bool {
	return t == taskRestoreStatus || t == taskCheckForeign || t == taskResync || t == taskSync
}

// version names a state of a Secret. Without a uid there is no Secret.
type version struct {
	uid             types.UID
	resourceVersion string
}

func versionOf(secret metav1.Object) version {
	return version{secret.GetUID(), secret.GetResourceVersion()}
}

// isBefore reports whether the watch shows another state than the one that was written
// or read last, and not merely an older one.
func (v version) isBefore(seen version) bool {
	if v.uid != seen.uid {
		return true
	}
	order, err := resourceversion.CompareResourceVersion(v.resourceVersion, seen.resourceVersion)
	return v != seen && (err != nil || order < 0)
}
