// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

const (
	// PinName is the name of the ConfigMap that says which store is the cluster's.
	PinName = "hsm-store"
	pinKey  = "store-id"
	// pinTimeout leaves time for the agents within the 5 s after which an outage
	// is to be told.
	pinTimeout = time.Second
)

// Pin is the ConfigMap hsm-store, which says which store is the cluster's: an
// empty store must never take the place of one whose token is away, after a
// restart neither. It is made with the first store that any replica reaches,
// and changed by persons only.
type Pin struct {
	ConfigMaps coreclient.ConfigMapsGetter
	Namespace  string
}

func (p Pin) String() string { return p.Namespace + "/" + PinName }

// PinnedStore is the id of the store in a ConfigMap.
func PinnedStore(m *corev1.ConfigMap) string { return m.Data[pinKey] }

// read gives the id of the store; empty while none is pinned. It asks the host
// itself. Its errors are those of the API.
func (p Pin) read(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pinTimeout)
	defer cancel()
	found, err := p.ConfigMaps.ConfigMaps(p.Namespace).Get(ctx, PinName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", p.unknown(err)
	case PinnedStore(found) == "":
		return "", p.unknown(fmt.Errorf("it has no data.%s: write the id of the store there, or delete it", pinKey))
	}
	return PinnedStore(found), nil
}

// create pins a store, unless one was pinned meanwhile. It gives the pinned one.
func (p Pin) create(ctx context.Context, storeID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pinTimeout)
	defer cancel()
	_, err := p.ConfigMaps.ConfigMaps(p.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: PinName, Labels: map[string]string{
			"app.kubernetes.io/part-of": "hsm.j5t.io", "app.kubernetes.io/managed-by": "hsm-apiserver",
		}},
		Data: map[string]string{pinKey: storeID},
	}, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return p.read(ctx)
	case err != nil:
		return "", p.unknown(err)
	}
	return storeID, nil
}

// unknown is an error of the API: nothing may be served from any store.
func (p Pin) unknown(err error) error {
	return unavailable(CauseStoreUnknown, fmt.Sprintf(
		"cannot tell which store is the cluster's, from ConfigMap %s: %v; check kube-apiserver, and the rights of this server", p, err))
}

// foreign is the error of an agent that has another store.
func (p Pin) foreign(storeID, pinned string) error {
	return agentv1.NewError(codes.Unavailable, agentv1.Reason_REASON_TOKEN_FOREIGN,
		"it has store %s, and the cluster's is %s, by ConfigMap %s; plug in a token of that, or, if store %s is to take its place, write its id to data.%s there",
		storeID, pinned, p, storeID, pinKey)
}
