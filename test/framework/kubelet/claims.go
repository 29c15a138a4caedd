// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/discovery/dra/dratest"
)

// driverTimeout is how long a driver has to be there and to answer. Then it is tried again.
const driverTimeout = 5 * time.Second

// prepareClaims has the drivers prepare what the pod claims, once it is allocated.
func (p *pod) prepareClaims(ctx context.Context, object *corev1.Pod) error {
	for _, reference := range object.Spec.ResourceClaims {
		if reference.ResourceClaimName == nil {
			return fmt.Errorf("claim %s: of claims only those with a name of their own can be used", reference.Name)
		}
		claim, err := p.kubelet.client.ResourceV1().ResourceClaims(p.namespace).Get(ctx, *reference.ResourceClaimName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if claim.Status.Allocation == nil || !slices.ContainsFunc(claim.Status.ReservedFor, func(consumer resourcev1.ResourceClaimConsumerReference) bool {
			return consumer.UID == object.UID
		}) {
			return fmt.Errorf("claim %s is not allocated to the pod", claim.Name)
		}
		if slices.ContainsFunc(p.claims, func(prepared *resourcev1.ResourceClaim) bool { return prepared.UID == claim.UID }) {
			continue
		}
		if err := p.eachDriver(ctx, claim, func(ctx context.Context, driver *dratest.Plugin) error {
			_, err := driver.Prepare(ctx, claim)
			return err
		}); err != nil {
			return fmt.Errorf("prepare claim %s: %w", claim.Name, err)
		}
		p.claims = append(p.claims, claim)
	}
	return nil
}

// unprepareClaims gives them back.
func (p *pod) unprepareClaims(ctx context.Context) error {
	for len(p.claims) > 0 {
		claim := p.claims[0]
		if err := p.eachDriver(ctx, claim, func(ctx context.Context, driver *dratest.Plugin) error {
			return driver.Unprepare(ctx, claim)
		}); err != nil {
			return fmt.Errorf("unprepare claim %s: %w", claim.Name, err)
		}
		p.claims = p.claims[1:]
	}
	return nil
}

func (p *pod) eachDriver(ctx context.Context, claim *resourcev1.ResourceClaim, do func(context.Context, *dratest.Plugin) error) error {
	names := map[string]bool{}
	for _, result := range claim.Status.Allocation.Devices.Results {
		names[result.Driver] = true
	}
	ctx, cancel := context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	for name := range names {
		driver, err := p.kubelet.driver(ctx, name)
		if err != nil {
			return err
		}
		if err := do(ctx, driver); err != nil {
			return err
		}
	}
	return nil
}

// driver is a driver of the node. One that is started again listens at the same place.
func (k *Kubelet) driver(ctx context.Context, name string) (*dratest.Plugin, error) {
	k.mutex.Lock()
	driver := k.drivers[name]
	k.mutex.Unlock()
	if driver != nil {
		return driver, nil
	}
	driver, err := dratest.Register(ctx, k.dir(), name)
	if err != nil {
		return nil, err
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if other := k.drivers[name]; other != nil {
		driver.Close()
		return other, nil
	}
	k.drivers[name] = driver
	return driver, nil
}
