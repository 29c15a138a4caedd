// SPDX-License-Identifier: Apache-2.0

// Package storebinding owns the form of the ConfigMap that binds a cluster to one
// store: its name, and where it keeps the store's id. It never decides which store
// that is, and never talks to a cluster.
package storebinding

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Name is the name of the ConfigMap, in the system namespace.
	Name = "hsm-store"
	// StoreIDKey is the key of its data under which the id of the store is.
	StoreIDKey = "store-id"
)

// New returns the ConfigMap that binds a cluster to a store.
func New(storeID string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: Name, Labels: map[string]string{
			"app.kubernetes.io/part-of": "hsm.j5t.io", "app.kubernetes.io/managed-by": "hsm-apiserver",
		}},
		Data: map[string]string{StoreIDKey: storeID},
	}
}

// StoreID returns the id of the store to which a ConfigMap binds the cluster; empty if
// it names none.
func StoreID(m *corev1.ConfigMap) string { return m.Data[StoreIDKey] }
