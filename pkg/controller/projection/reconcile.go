// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const (
	// maxActs are more than a pair ever needs to get in step: Replace, Create,
	// Restart; or Push, Note, Restart.
	maxActs = 8
	// againAfter is the time until a pair is looked at again that has changed under
	// our hands.
	againAfter = 100 * time.Millisecond
	// giveWay is enough for others to be taken from the queue first.
	giveWay = 10 * time.Millisecond
	// defaultInterval is for objects of an API server that sets no default.
	defaultInterval = 300 * time.Second
)

// errRestless says that a pair does not come to rest.
var errRestless = errors.New("token and Secret are not in step after several writes; it is tried again")

// errInsisted says that someone edits or deletes the Secret again and again.
var errInsisted = errors.New("the Secret is edited or deleted again and again")

// reconciler gathers facts and carries out decisions; it decides nothing itself.
type reconciler struct {
	client   client.Client // Asks the API server each time.
	cache    client.Reader // Of metadata only, from the watches.
	keys     *keys
	values   *values
	recorder record.EventRecorder
	clock    clock.PassiveClock
	outage   *outage
	memories *memories
}

// Reconcile looks at one HSMSecret, if there is a cause.
func (r *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	seen := metadataOf(hsmSecretKind)
	err := r.cache.Get(ctx, request.NamespacedName, seen)
	if apierrors.IsNotFound(err) || err == nil && seen.DeletionTimestamp != nil {
		// What becomes of the Secret is for the garbage collector, which asks whether
		// the owner is really gone, and needs no controller for that.
		r.memories.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	m := r.memories.get(request.NamespacedName)
	secret, err := secretVersion(ctx, r.cache, seen.Namespace, m.secretName)
	if err != nil {
		return reconcile.Result{}, err
	}

	now := r.clock.Now()
	why := m.look(seen, secret, r.memories.lastShown(request.NamespacedName), now)
	switch why {
	case lookNot:
		return idle(m.next.Sub(now)), nil
	case lookLater:
		return idle(m.settled.Sub(now)), nil
	case lookStatus:
		// All have lost it at once. What people wait for goes first.
		if m.givesWay = !m.givesWay; m.givesWay {
			return idle(giveWay), nil
		}
	}
	if pause := r.outage.wait(); pause > 0 {
		return reconcile.Result{RequeueAfter: pause}, nil
	}
	switch why {
	case lookStatus:
		if err := r.noted(ctx, r.writeStatus(ctx, request.NamespacedName, *m.status)); err != nil {
			return r.failed(ctx, request.NamespacedName, m, &outcome{err: err}, *m.status)
		}
		return idle(m.next.Sub(now)), nil
	case lookRefused:
		current, err := secretVersion(ctx, r.client, seen.Namespace, m.secretName)
		if err == nil && current == m.secret {
			m.next = now.Add(refusedInterval)
			return idle(refusedInterval), nil
		}
	}
	return r.sync(ctx, request.NamespacedName, m, why)
}

// sync reads the values, brings them in step, and tells.
func (r *reconciler) sync(ctx context.Context, name types.NamespacedName, m *memory, why look) (reconcile.Result, error) {
	valueReads.Inc()
	o := &outcome{pair: pair{hsm: &v1alpha1.HSMSecret{}}, lost: m.lost}
	err := r.noted(ctx, r.client.Get(ctx, name, o.hsm))
	switch {
	case apierrors.IsNotFound(err):
		r.memories.forget(name)
		return reconcile.Result{}, nil
	case err != nil:
		o.hsm = nil
		o.err = fmt.Errorf("read the HSMSecret: %w", err)
		return r.failed(ctx, name, m, o, v1alpha1.HSMSecretStatus{})
	case o.hsm.DeletionTimestamp != nil:
		r.memories.forget(name)
		return reconcile.Result{}, nil
	}
	previous := o.hsm.Status
	if m.status != nil && len(previous.Conditions) == 0 {
		previous = *m.status // The agent has lost it.
	}
	now := r.clock.Now()
	if why == lookSource && m.uid == o.hsm.UID && m.generation == o.hsm.Generation && m.revision == o.hsm.Status.DataVersion && isSame(*m.status, o.hsm.Status) {
		m.next = now.Add(interval(o.hsm))
		return idle(m.next.Sub(now)), nil
	}

	o.err = r.settle(ctx, m, o, previous)
	if o.err == nil {
		o.err = r.removeFormer(ctx, o)
	}
	if o.err != nil {
		return r.failed(ctx, name, m, o, previous)
	}
	status := o.status(previous, now)
	wrote := len(o.did) > 0
	if !isSame(status, o.hsm.Status) {
		if o.err = r.writeStatus(ctx, name, status); o.err != nil {
			return r.failed(ctx, name, m, o, previous)
		}
		wrote = true
	}
	r.tell(m, o, previous)
	m.remember(o, status, wrote, r.clock.Now())
	return idle(m.next.Sub(r.clock.Now())), nil
}

// idle has an object looked at later, after those to which something happened.
func idle(after time.Duration) reconcile.Result {
	return reconcile.Result{RequeueAfter: after, Priority: new(handler.LowPriority)}
}

// noted tells an outage of a request that needs the token, and gives its error
// back.
func (r *reconciler) noted(ctx context.Context, err error) error {
	if r.outage.note(err) {
		klog.FromContext(ctx).Info("Token or API server came or went", "away", isAway(err), "err", err)
	}
	return err
}

// failed says what went wrong, once, and when to try again.
func (r *reconciler) failed(ctx context.Context, name types.NamespacedName, m *memory, o *outcome, previous v1alpha1.HSMSecretStatus) (reconcile.Result, error) {
	m.stale, m.lost = true, o.lost
	switch {
	case apierrors.IsConflict(o.err):
		return reconcile.Result{RequeueAfter: againAfter}, nil
	case errors.Is(o.err, errInsisted):
		return reconcile.Result{RequeueAfter: answerInterval}, nil
	case apierrors.HasStatusCause(o.err, corev1.NamespaceTerminatingCause):
		r.memories.forget(name)
		return reconcile.Result{}, nil
	}
	failures.WithLabelValues(failureReason(o.err)).Inc()
	if !m.failing {
		m.failing = true
		r.tellFailure(name, m, o)
	}
	if o.hsm != nil {
		if status := o.status(previous, r.clock.Now()); m.status == nil || !isSame(status, *m.status) {
			// Where even that fails, the event must do.
			if r.writeStatus(ctx, name, status) == nil {
				m.status = &status
			}
		}
	}
	if isAway(o.err) {
		return reconcile.Result{RequeueAfter: wait.Jitter(probeInterval, 0.5)}, nil
	}
	return reconcile.Result{}, o.err
}

// remember notes what there is now.
func (m *memory) remember(o *outcome, status v1alpha1.HSMSecretStatus, wrote bool, now time.Time) {
	m.known, m.stale, m.failing, m.lost = true, false, false, ""
	m.uid, m.generation, m.revision = o.hsm.UID, o.hsm.Generation, o.hsm.Status.DataVersion
	m.request = o.hsm.Annotations[SyncAnnotation]
	secret := version{}
	if o.secret != nil {
		secret = versionOf(o.secret)
	}
	m.secretName, m.secret = o.hsm.Spec.SecretName, secret
	m.status = &status
	if wrote {
		m.settled = now.Add(settleTime)
	}
	m.refused = o.refused()
	m.next = now.Add(interval(o.hsm))
	if m.refused {
		m.next = now.Add(refusedInterval)
	}
}

// settle decides and acts until there is nothing left to do.
func (r *reconciler) settle(ctx context.Context, m *memory, o *outcome, previous v1alpha1.HSMSecretStatus) error {
	if err := r.values.areShown(ctx, o.hsm); err != nil {
		return err
	}
	secret := &corev1.Secret{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: o.hsm.Namespace, Name: o.hsm.Spec.SecretName}, secret)
	switch {
	case err == nil:
		o.secret = secret
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("read Secret %s: %w", o.hsm.Spec.SecretName, err)
	}
	for range maxActs {
		f, err := r.factsOf(ctx, o.pair, m, previous)
		if err != nil {
			return err
		}
		d := decide(f)
		o.facts = f
		if d.action == nothing {
			o.final = d
			return nil
		}
		if f.isAnswer(d) && !m.answers.AllowN(r.clock.Now(), 1) {
			return errInsisted
		}
		if d.reason == reasonBothChanged {
			o.lost = lostEdit(o.pair, r.clock.Now())
		}
		before := o.pair
		if o.pair, err = r.act(ctx, d, before, f); err != nil {
			o.pair = before
			return err
		}
		o.did = append(o.did, d)
		r.tellAct(d, before, o)
	}
	return errRestless
}

// removeFormer deletes the Secrets that were made under other names, once the
// one of the present name is there.
func (r *reconciler) removeFormer(ctx context.Context, o *outcome) error {
	if o.secret == nil || o.refused() {
		return nil
	}
	made := metadataListOf(secretKind)
	if err := r.cache.List(ctx, made, client.InNamespace(o.hsm.Namespace), client.MatchingFields{sourceIndex: string(o.hsm.UID)}); err != nil {
		return fmt.Errorf("look up Secrets: %w", err)
	}
	for _, item := range made.Items {
		if item.Name == o.secret.Name {
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
		// A copy that someone made of our Secret has its annotations, but was never
		// applied by us.
		if applied(former) == nil || former.Annotations[SourceUIDAnnotation] != string(o.hsm.UID) {
			continue
		}
		if err := r.delete(ctx, former); err != nil {
			return err
		}
		r.tellRemoved(o, former)
	}
	return nil
}

// secretVersion asks the watch, or the API server, for the state of a Secret, and
// for no data.
func secretVersion(ctx context.Context, reader client.Reader, namespace, name string) (version, error) {
	if name == "" {
		return version{}, nil
	}
	secret := metadataOf(secretKind)
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		return version{}, nil
	}
	return versionOf(secret), err
}

// interval is the time to the next look without a cause. It is never shorter
// than the user said.
func interval(h *v1alpha1.HSMSecret) time.Duration {
	seconds := time.Duration(h.Spec.SyncInterval) * time.Second
	if seconds == 0 {
		seconds = defaultInterval
	}
	return wait.Jitter(seconds, 0.1)
}
