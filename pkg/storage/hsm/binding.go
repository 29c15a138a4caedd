// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storebinding"
)

// bindingTimeout leaves time for the agents: an outage is reported within 5 s.
const bindingTimeout = time.Second

// StoreBinding is the ConfigMap that binds the cluster to one store. So
// an empty store never takes the place of one whose token is away, not even after a
// restart. The first replica that reaches a store creates the ConfigMap; afterwards
// only people change it.
type StoreBinding struct {
	ConfigMaps coreclient.ConfigMapsGetter
	Namespace  string
}

func (b StoreBinding) String() string { return b.Namespace + "/" + storebinding.Name }

// read returns the id of the bound store; empty while none is. It asks
// kube-apiserver itself. Its errors are those of the API.
func (b StoreBinding) read(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bindingTimeout)
	defer cancel()
	found, err := b.ConfigMaps.ConfigMaps(b.Namespace).Get(ctx, storebinding.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", b.unknown(err)
	case storebinding.StoreID(found) == "":
		return "", b.unknown(fmt.Errorf("it has no data.%s: write the id of the store there, or delete the ConfigMap", storebinding.StoreIDKey))
	}
	return storebinding.StoreID(found), nil
}

// create binds the cluster to a store, unless it was bound meanwhile. It returns the
// bound one.
func (b StoreBinding) create(ctx context.Context, storeID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bindingTimeout)
	defer cancel()
	_, err := b.ConfigMaps.ConfigMaps(b.Namespace).Create(ctx, storebinding.New(storeID), metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return b.read(ctx)
	case err != nil:
		return "", b.unknown(err)
	}
	return storeID, nil
}

// unknown is an error of the API: no store may be served.
func (b StoreBinding) unknown(err error) error {
	return unavailable(CauseStoreUnknown, fmt.Sprintf(
		"cannot read from ConfigMap %s which store is the cluster's: %v; check kube-apiserver, and the rights of this server", b, err))
}

// foreign is the error of an agent that has another store than the bound one.
func (b StoreBinding) foreign(storeID, bound string) error {
	return agentv1.NewError(codes.Unavailable, agentv1.Reason_REASON_TOKEN_FOREIGN,
		"it has store %s, and ConfigMap %s binds the cluster to store %s: plug in a token of that store, or, if store %s is to take its place, write its id to data.%s there",
		storeID, b, bound, storeID, storebinding.StoreIDKey)
}
