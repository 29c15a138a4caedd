// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const (
	// maxActions are more than a pair ever needs to get in sync: Replace, Create, Restart;
	// or Push, Note, Restart.
	maxActions = 8
	// foreignInterval is the time between two checks of a Secret that belongs to others, or
	// waits for its finalizers. It may not be watched: it may lack the label.
	foreignInterval = 10 * time.Second
	// defaultInterval is for objects of an API server that sets no default.
	defaultInterval = 300 * time.Second
)

// pair is an HSMSecret and the Secret of the name that it wants, read live.
type pair struct {
	hsm    *v1alpha1.HSMSecret // Nil: it was not read yet.
	secret *corev1.Secret      // Nil: there is none.
}

// pass is one sync of an HSMSecret.
type pass struct {
	pair
	name  types.NamespacedName
	state *syncState
	now   time.Time
	// previous is the status as it was last known.
	previous v1alpha1.HSMSecretStatus

	secretRead bool // That there is no Secret is known then.

	facts facts
	done  []decision // Those that were carried out.
	final decision   // The one that found nothing to do.
	// lostEdit says whose edit was overwritten, when both sides had changed.
	lostEdit string
	err      error
}

// A step is a part of a pass. An error ends the pass.
type step func(context.Context, *pass) error

// stepsOf are the steps of a task, in their order.
func (r *reconciler) stepsOf(t task) []step {
	rest := []step{r.checkValues, r.readSecret, r.converge, r.restoreKept, r.removeFormer, r.finish}
	switch t {
	case taskRestoreStatus:
		return []step{r.restoreStatus}
	case taskCheckForeign:
		return append([]step{r.stopIfStillForeign, r.readHSMSecret}, rest...)
	case taskResync:
		return append([]step{r.readHSMSecret, r.stopIfUnchanged}, rest...)
	}
	return append([]step{r.readHSMSecret}, rest...)
}

// sync makes one pass.
func (r *reconciler) sync(ctx context.Context, name types.NamespacedName, t task, o observation) (reconcile.Result, error) {
	p := &pass{name: name, state: o.state, now: o.now, lostEdit: o.state.lostEdit}
	var err error
	for _, do := range r.stepsOf(t) {
		if err = do(ctx, p); err != nil {
			break
		}
	}
	return r.end(ctx, p, err)
}

// restoreStatus writes the status that the agent has lost.
func (r *reconciler) restoreStatus(ctx context.Context, p *pass) error {
	p.state.yielded = false
	return r.noteOutage(ctx, r.writeStatus(ctx, p.name, *p.state.status))
}

// stopIfStillForeign ends the pass if the Secret is as it was when it was found to belong
// to others, or to wait for its finalizers, and if its HSMSecret still wants it.
func (r *reconciler) stopIfStillForeign(ctx context.Context, p *pass) error {
	current, err := secretVersion(ctx, r.client, p.name.Namespace, p.state.secretName)
	unchanged := err == nil && current == p.state.secret
	if unchanged && p.state.holder != "" {
		secret := metadataOf(secretKind)
		secret.Namespace, secret.Name = p.name.Namespace, p.state.secretName
		unchanged, err = r.isWanted(ctx, secret, p.state.holder)
		unchanged = unchanged && err == nil
	}
	if unchanged {
		p.state.nextCheck = p.now.Add(foreignInterval)
		return errUnchanged
	}
	return nil // An error comes again in the steps that follow.
}

// readHSMSecret reads the HSMSecret with its values, from the token.
func (r *reconciler) readHSMSecret(ctx context.Context, p *pass) error {
	valueReads.Inc()
	hsm := &v1alpha1.HSMSecret{}
	err := r.noteOutage(ctx, r.client.Get(ctx, p.name, hsm))
	switch {
	case apierrors.IsNotFound(err), err == nil && hsm.DeletionTimestamp != nil:
		return errGone
	case err != nil:
		return fmt.Errorf("read the HSMSecret: %w", err)
	}
	if p.state.isOfAnother(hsm.UID) {
		p.state.reset()
		p.lostEdit = ""
	}
	p.state.uid = hsm.UID
	p.hsm, p.now, p.previous = hsm, r.clock.Now(), hsm.Status
	if p.state.status != nil && len(p.previous.Conditions) == 0 {
		p.previous = *p.state.status // The agent has lost it.
	}
	return nil
}

// stopIfUnchanged ends the pass if the token holds what was synced last.
func (r *reconciler) stopIfUnchanged(_ context.Context, p *pass) error {
	if p.state.isUnchanged(p.hsm) {
		p.state.nextCheck = p.now.Add(interval(p.hsm))
		return errUnchanged
	}
	return nil
}

// checkValues makes sure that the values that were read are those of the token.
func (r *reconciler) checkValues(ctx context.Context, p *pass) error {
	return r.values.areShown(ctx, p.hsm)
}

func (r *reconciler) readSecret(ctx context.Context, p *pass) error {
	var err error
	p.secret, err = r.getSecret(ctx, p.hsm)
	p.secretRead = err == nil
	return err
}

// getSecret returns the Secret that an HSMSecret is projected into, or nil.
func (r *reconciler) getSecret(ctx context.Context, h *v1alpha1.HSMSecret) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: h.Namespace, Name: h.SecretName()}, secret)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", h.SecretName(), err)
	}
	return secret, nil
}

// converge decides and acts until there is nothing left to do.
func (r *reconciler) converge(ctx context.Context, p *pass) error {
	for range maxActions {
		f, err := r.factsOf(ctx, p)
		if err != nil {
			return err
		}
		p.facts = f
		d := decide(f)
		if d.action == nothing {
			p.final = d
			return nil
		}
		if err := r.act(ctx, p, d); err != nil {
			return err
		}
	}
	return errNotConverging
}

// removeFormer deletes the Secrets that were made under other names, once the one of the
// present name is there.
func (r *reconciler) removeFormer(ctx context.Context, p *pass) error {
	if p.secret == nil || p.isForeign() {
		return nil
	}
	made := metadataListOf(secretKind)
	if err := r.cache.List(ctx, made, client.InNamespace(p.hsm.Namespace), client.MatchingFields{sourceIndex: string(p.hsm.UID)}); err != nil {
		return fmt.Errorf("look up Secrets: %w", err)
	}
	for _, item := range made.Items {
		if item.Name == p.secret.Name {
			continue
		}
		former := &corev1.Secret{}
		err := r.client.Get(ctx, client.ObjectKey{Namespace: item.Namespace, Name: item.Name}, former)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read Secret %s: %w", item.Name, err)
		}
		// A copy that someone made of our Secret has its annotations, but the controller has
		// never applied it.
		if lastApplied(former) == nil || former.Annotations[SourceUIDAnnotation] != string(p.hsm.UID) {
			continue
		}
		if err := r.delete(ctx, former); err != nil {
			return err
		}
		r.recordRemoved(p, former)
	}
	return nil
}

// finish writes the status if it has changed, and keeps what the next pass needs.
func (r *reconciler) finish(ctx context.Context, p *pass) error {
	status := p.status(p.now)
	wrote := len(p.done) > 0
	if !isSame(status, p.hsm.Status) {
		if err := r.writeStatus(ctx, p.name, status); err != nil {
			return err
		}
		wrote = true
	}
	r.recordOutcome(p)
	p.state.update(p, status, wrote, r.clock.Now())
	return nil
}

// interval is the time to the next check without a cause. It is never shorter than the
// user said.
func interval(h *v1alpha1.HSMSecret) time.Duration {
	seconds := time.Duration(h.Spec.SyncInterval) * time.Second
	if seconds == 0 {
		seconds = defaultInterval
	}
	return wait.Jitter(seconds, 0.1)
}
