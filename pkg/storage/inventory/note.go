// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
)

const (
	// noteTimeout bounds all that one request asks of the host.
	noteTimeout = 5 * time.Second
	// hasTimeout is shorter: the store has taken its part of the 5 s after which
	// an outage is to be told.
	hasTimeout = time.Second
)

// note is the ConfigMap whose keys are the namespaces. All replicas write it.
type note struct {
	host Host
	name string
	// holdsNothing asks the store, holding does so for all namespaces.
	holdsNothing func(ctx context.Context, namespace string) (bool, error)
	holding      func(ctx context.Context) ([]string, error)
	writing      chan struct{} // Holds a token while one request writes for all.
}

// has asks the host itself: another replica may have noted the namespace. Where
// there is no ConfigMap nothing is known, least of all that nothing is held.
func (n note) has(ctx context.Context, namespace string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, hasTimeout)
	defer cancel()
	found, err := n.host.configMaps().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	_, noted := found.Data[namespace]
	return noted, nil
}

// add notes namespaces, and strikes out those that are over. When it returns
// without an error the namespaces are noted.
func (n note) add(ctx context.Context, namespaces map[string]types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	select {
	case n.writing <- struct{}{}:
		defer func() { <-n.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	byAnother := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	return retry.OnError(retry.DefaultBackoff, byAnother, func() error { return n.write(ctx, namespaces) })
}

func (n note) write(ctx context.Context, namespaces map[string]types.UID) error {
	save := func(m *corev1.ConfigMap) (err error) {
		_, err = n.host.configMaps().Update(ctx, m, metav1.UpdateOptions{})
		return err
	}
	found, err := n.host.configMaps().Get(ctx, n.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		// Somebody has deleted it, and with it what is noted no more than once.
		holding, err := n.holding(ctx)
		if err != nil {
			return err
		}
		found = newConfigMap(n.name)
		found.Data = map[string]string{}
		for _, namespace := range holding {
			found.Data[namespace] = ""
		}
		save = func(m *corev1.ConfigMap) (err error) {
			_, err = n.host.configMaps().Create(ctx, m, metav1.CreateOptions{})
			return err
		}
	case err != nil:
		return err
	}
	before := maps.Clone(found.Data)
	if found.Data == nil {
		found.Data = map[string]string{}
	}
	for namespace := range namespaces {
		found.Data[namespace] = ""
	}
	if maps.Equal(before, found.Data) {
		return nil
	}
	n.strikeOut(ctx, before, namespaces, found)
	return save(found)
}

// strikeOut removes, of those noted before, the namespaces that do not exist any
// more and hold nothing: nothing can be created in them. Where that cannot be
// found out they stay.
func (n note) strikeOut(ctx context.Context, before map[string]string, added map[string]types.UID, m *corev1.ConfigMap) {
	for namespace := range before {
		if _, adding := added[namespace]; adding || n.host.uid(namespace) != "" {
			continue
		}
		over, err := n.isOver(ctx, namespace)
		if err != nil {
			klog.FromContext(ctx).Error(err, "A namespace stays noted", "namespace", namespace)
		}
		if over {
			delete(m.Data, namespace)
		}
	}
}

func (n note) isOver(ctx context.Context, namespace string) (bool, error) {
	exists, err := n.host.exists(ctx, namespace)
	if exists || err != nil {
		return false, err
	}
	return n.holdsNothing(ctx, namespace)
}
