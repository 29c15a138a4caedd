// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/agentname"
)

// sinceAnnotation is when an authority last took a step.
const sinceAnnotation = "hsm.j5t.io/step-time"

// Authorities is the Issuer with authorities of its own.
type Authorities struct {
	client    client.Client
	clock     clock.PassiveClock
	namespace string

	// mu: one at a time changes an authority or what it signs.
	mu sync.Mutex
	// spread is when the trust in an authority was last spread.
	spread map[authorityID]time.Time
}

// NewAuthorities returns the issuer of the system namespace.
func NewAuthorities(c client.Client, namespace string, k clock.PassiveClock) *Authorities {
	return &Authorities{client: c, clock: k, namespace: namespace, spread: map[authorityID]time.Time{}}
}

// Kind is Secret: there is nothing else.
func (i *Authorities) Kind() schema.GroupVersionKind { return secretKind }

// Agent writes the Secret of an agent.
func (i *Authorities) Agent(ctx context.Context, agent string, owners []metav1.OwnerReference) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	a, _, err := i.load(ctx, agents)
	if err != nil {
		return err
	}
	l := leafOfAgent(agent, i.namespace)
	l.owners = append([]metav1.OwnerReference{}, owners...)
	_, err = i.write(ctx, l, a)
	return err
}

// Renew makes and renews all certificates and authorities that are due.
func (i *Authorities) Renew(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	err := i.renew(ctx, agents, func(a *authority) error {
		leafs, err := i.leafsOfAgents(ctx)
		if err != nil {
			return err
		}
		for _, l := range leafs {
			if _, err := i.write(ctx, l, a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return i.renew(ctx, serving, func(a *authority) error {
		ours, err := i.write(ctx, leafOfAPIServer(i.namespace), a)
		if err != nil || !ours {
			return err
		}
		return i.trust(ctx, a.bundle())
	})
}

// renew writes all that an authority signs and all that trusts it. Once that is done, it
// takes the authority's next step.
func (i *Authorities) renew(ctx context.Context, id authorityID, writeAll func(*authority) error) error {
	for {
		a, secret, err := i.load(ctx, id)
		if err != nil {
			return err
		}
		if err := writeAll(a); err != nil {
			return err
		}
		step, err := a.step(id.name, i.spread[id], i.clock.Now())
		if err != nil || step == "" {
			return err
		}
		a.store(secret)
		if err := i.client.Update(ctx, secret, fieldOwner); err != nil {
			return fmt.Errorf("update Secret %s: %w", id.secret, err)
		}
		klog.FromContext(ctx).Info("Authority moved on", "authority", id.name, "step", step)
	}
}

// load reads an authority, or makes a new one.
func (i *Authorities) load(ctx context.Context, id authorityID) (*authority, *corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := i.client.Get(ctx, types.NamespacedName{Namespace: i.namespace, Name: id.secret}, secret)
	switch {
	case err == nil && secret.Labels[AuthorityLabel] != id.name:
		return nil, nil, fmt.Errorf("secret %s is of others: delete it, or hand it over with the label %s=%s", id.secret, AuthorityLabel, id.name)
	case err == nil:
		a, err := parse(secret)
		if err != nil {
			return nil, nil, fmt.Errorf("secret %s does not hold the authority that was written to it (%w): restore it, or delete it to have another one made", id.secret, err)
		}
		return a, secret, nil
	case !apierrors.IsNotFound(err):
		return nil, nil, fmt.Errorf("read Secret %s: %w", id.secret, err)
	}
	now := i.clock.Now()
	ca, err := newCA(id.name, now)
	if err != nil {
		return nil, nil, err
	}
	a := &authority{signer: ca, since: now}
	secret = i.secret(leaf{secret: id.secret, of: id})
	a.store(secret)
	if err := i.client.Create(ctx, secret, fieldOwner); err != nil {
		return nil, nil, fmt.Errorf("create Secret %s: %w", id.secret, err)
	}
	klog.FromContext(ctx).Info("Authority made", "authority", id.name)
	return a, secret, nil
}

// leafsOfAgents are all certificates that the authority of the agents signs. Those of agents
// are known by the names of their Secrets, and never by what these hold.
func (i *Authorities) leafsOfAgents(ctx context.Context) ([]leaf, error) {
	leafs := leafsOfClients()
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(secretKind)
	if err := i.client.List(ctx, list, client.InNamespace(i.namespace), client.MatchingLabels{AuthorityLabel: agents.name}, client.HasLabels{agentname.ObjectLabel}); err != nil {
		return nil, fmt.Errorf("list the Secrets of agents: %w", err)
	}
	for _, secret := range list.Items {
		if l := leafOfAgent(secret.Labels[agentname.ObjectLabel], i.namespace); l.secret == secret.Name {
			leafs = append(leafs, l)
		}
	}
	return leafs, nil
}

// write makes or renews the Secret of a leaf, and reports whether the Secret is ours at all.
func (i *Authorities) write(ctx context.Context, l leaf, a *authority) (ours bool, err error) {
	now := i.clock.Now()
	secret := &corev1.Secret{}
	err = i.client.Get(ctx, types.NamespacedName{Namespace: i.namespace, Name: l.secret}, secret)
	if apierrors.IsNotFound(err) {
		secret = i.secret(l)
		if err := l.issue(secret, a, now); err != nil {
			return true, err
		}
		if err := i.client.Create(ctx, secret, fieldOwner); err != nil {
			return true, fmt.Errorf("create Secret %s: %w", l.secret, err)
		}
		klog.FromContext(ctx).Info("Certificate issued", "secret", l.secret, "name", l.name)
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read Secret %s: %w", l.secret, err)
	}
	if secret.Labels[AuthorityLabel] != l.of.name {
		klog.FromContext(ctx).V(1).Info("Secret is of others and left alone", "secret", l.secret)
		return false, nil
	}
	newOwners := l.owners != nil && !equality.Semantic.DeepEqual(l.owners, secret.OwnerReferences)
	if newOwners {
		secret.OwnerReferences = l.owners
	}
	renewed := !l.good(secret, a, now)
	if renewed {
		err = l.issue(secret, a, now)
	}
	trusted := bytes.Equal(secret.Data[BundleKey], a.bundle())
	if err != nil || trusted && !renewed && !newOwners {
		return true, err
	}
	secret.Data[BundleKey] = a.bundle()
	if err := i.client.Update(ctx, secret, fieldOwner); err != nil {
		return true, fmt.Errorf("update Secret %s: %w", l.secret, err)
	}
	if !trusted {
		i.spread[l.of] = now
	}
	klog.FromContext(ctx).Info("Certificate written", "secret", l.secret, "name", l.name, "renewed", renewed)
	return true, nil
}

func (i *Authorities) secret(l leaf) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: i.namespace, Name: l.secret, Labels: l.labels(l.of.name), OwnerReferences: l.owners},
		Type:       corev1.SecretTypeTLS,
	}
}

// trust sets the bundle that the APIService trusts, if that exists and asks for it.
func (i *Authorities) trust(ctx context.Context, bundle []byte) error {
	service := &unstructured.Unstructured{}
	service.SetGroupVersionKind(apiServiceKind)
	err := i.client.Get(ctx, types.NamespacedName{Name: APIService}, service)
	if apierrors.IsNotFound(err) {
		return nil // The watch shows its creation.
	}
	if err != nil {
		return fmt.Errorf("read APIService %s: %w", APIService, err)
	}
	if service.GetAnnotations()[InjectAnnotation] != "true" {
		return nil
	}
	wanted := base64.StdEncoding.EncodeToString(bundle)
	if has, _, _ := unstructured.NestedString(service.Object, "spec", "caBundle"); has == wanted {
		return nil
	}
	patch := fmt.Appendf(nil, `{"spec":{"caBundle":%q}}`, wanted)
	if err := i.client.Patch(ctx, service, client.RawPatch(types.MergePatchType, patch), fieldOwner); err != nil {
		return fmt.Errorf("set the caBundle of APIService %s: %w", APIService, err)
	}
	i.spread[serving] = i.clock.Now()
	klog.FromContext(ctx).Info("APIService trusts the authority", "apiService", APIService)
	return nil
}
