// SPDX-License-Identifier: Apache-2.0

package namespaces

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

const (
	// addTimeout bounds all that one request asks of the host.
	addTimeout = 5 * time.Second
	// readTimeout is shorter: an outage is reported within 5 s, and the store has
	// taken its part of them.
	readTimeout = time.Second
)

// occupied is the ConfigMap whose keys are the namespaces that may hold records. All
// replicas write it.
type occupied struct {
	host    Host
	name    string
	store   records.Backend // Whose records are in the namespaces.
	prefix  string          // Of the records' keys.
	writing chan struct{}   // Holds an element while one request writes for all.
}

// read returns the namespaces that may hold records. It asks kube-apiserver itself, as
// another replica may have added one. Without a ConfigMap that can be trusted nothing is
// known, and that is an error.
func (o occupied) read(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found, err := o.host.configMaps().Get(ctx, o.name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return found.Data, o.trust(ctx, found)
}

// add adds namespaces, and removes those that were deleted and hold nothing. When it
// returns without an error the namespaces are in the ConfigMap. If all is set, or the
// ConfigMap cannot be trusted, it adds all namespaces that the store holds.
func (o occupied) add(ctx context.Context, namespaces map[string]types.UID, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, addTimeout)
	defer cancel()
	select {
	case o.writing <- struct{}{}:
		defer func() { <-o.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	byAnother := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	return retry.OnError(retry.DefaultBackoff, byAnother, func() error { return o.write(ctx, namespaces, all) })
}

func (o occupied) write(ctx context.Context, namespaces map[string]types.UID, all bool) error {
	save := func(m *corev1.ConfigMap) (err error) {
		_, err = o.host.configMaps().Update(ctx, m, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	}
	found, err := o.host.configMaps().Get(ctx, o.name, metav1.GetOptions{})
	trusted := false
	switch {
	case apierrors.IsNotFound(err):
		found = newConfigMap(o.name)
		save = func(m *corev1.ConfigMap) (err error) {
			_, err = o.host.configMaps().Create(ctx, m, metav1.CreateOptions{FieldManager: fieldManager})
			return err
		}
	case err != nil:
		return err
	default:
		err := o.trust(ctx, found)
		if err != nil && !errors.Is(err, errNotTrusted) {
			return err
		}
		trusted = err == nil && isSealed(found)
	}
	before := maps.Clone(found.Data)
	if found.Data == nil {
		found.Data = map[string]string{}
	}
	if all || !trusted {
		holding, err := o.holding(ctx)
		if err != nil {
			return err
		}
		for _, namespace := range holding {
			found.Data[namespace] = ""
		}
	}
	for namespace := range namespaces {
		found.Data[namespace] = ""
	}
	if trusted && maps.Equal(before, found.Data) {
		return nil
	}
	o.removeDeleted(ctx, before, namespaces, found)
	seal(found)
	return save(found)
}

// removeDeleted removes the namespaces that were in the ConfigMap before, do not
// exist any more, and hold nothing: nothing can be created in them. A namespace for
// which that cannot be found out stays.
func (o occupied) removeDeleted(ctx context.Context, before map[string]string, added map[string]types.UID, m *corev1.ConfigMap) {
	for namespace := range before {
		if _, adding := added[namespace]; adding || o.host.uid(namespace) != "" {
			continue
		}
		removable, err := o.isRemovable(ctx, namespace)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot find out whether a deleted namespace holds anything; it stays in the ConfigMap", "namespace", namespace)
		}
		if removable {
			delete(m.Data, namespace)
		}
	}
}

func (o occupied) isRemovable(ctx context.Context, namespace string) (bool, error) {
	exists, err := o.host.exists(ctx, namespace)
	if exists || err != nil {
		return false, err
	}
	found, _, err := o.store.List(ctx, &agentv1.ListRequest{Prefix: o.prefix + namespace + "/", Limit: 1, WithoutData: true})
	return len(found) == 0, err
}

// holding returns the namespaces of all records of the store.
func (o occupied) holding(ctx context.Context) (namespaces []string, err error) {
	all, _, err := o.store.List(ctx, &agentv1.ListRequest{Prefix: o.prefix, WithoutData: true})
	for _, r := range all {
		namespace, _, _ := strings.Cut(strings.TrimPrefix(r.GetKey(), o.prefix), "/")
		namespaces = append(namespaces, namespace)
	}
	return namespaces, err
}
