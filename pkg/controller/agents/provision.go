// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

const (
	// soPINKey is the key of the security officer's PIN in its Secret, and the file of
	// it for the agent.
	soPINKey = "so-pin"
	// soPINBytes make 16 hexadecimal digits: what a SmartCard-HSM and a Pico HSM have
	// (OpenSC, card-sc-hsm.c, sc_hsm_init_token), and other tokens take.
	soPINBytes = 8

	// WarningAnnotation on a Secret with an SO PIN says what people must do.
	WarningAnnotation = "hsm.j5t.io/warning"
	// soPINLabel is on all Secrets with an SO PIN. They have no label of their agents,
	// with which they would be removed.
	soPINLabel = "hsm.j5t.io/so-pin-of"

	// The states of members that agents report by agentv1.Reason.
	stateUninitialized = v1alpha1.MemberState("TokenUninitialized")
	stateBlank         = v1alpha1.MemberState("TokenBlank")
)

// SOPINSecret is the Secret of an agent that holds the PIN of its token's security
// officer until a person has taken it to a safe.
func SOPINSecret(agent string) string { return agent + "-so-pin" }

// provision makes the SO PIN for a token that its agent found without a user PIN, if the
// HSMDevice asks for that. The agent then initialises the token, and refuses one that has a
// PIN or a store.
func (r *reconciler) provision(ctx context.Context, f *facts, a agent, p *plan) error {
	pool, member := f.member(a)
	if member == nil {
		return nil
	}
	asked := f.devices[a.device].Spec.PKCS11.AutoProvision
	say := func(warning bool, reason, format string, args ...any) {
		p.notices = append(p.notices, notice{pool: pool, device: a.device, warning: warning, reason: reason, message: fmt.Sprintf(format, args...)})
	}
	switch {
	case !asked && member.State == stateUninitialized:
		say(true, "NotProvisioned", "the token with serial number %q has no user PIN. To have it initialised, which erases it, set spec.pkcs11.autoProvision of HSMDevice %s", a.serial, a.device.Name)
	case !asked && member.State == stateBlank:
		say(true, "NotProvisioned", "the token with serial number %q holds no store. To have one made on it, set spec.pkcs11.autoProvision of HSMDevice %s", a.serial, a.device.Name)
	}
	if !asked {
		return nil
	}
	secret, err := r.soPINSecret(ctx, a)
	if err != nil {
		return err
	}
	switch {
	case member.State == v1alpha1.MemberStateServing && secret != nil:
		say(true, "Provisioned", "the token with serial number %q is initialised and served. Take its SO PIN to a safe: it is in Secret %s/%s and nowhere else. Then delete this Secret", a.serial, secret.Namespace, secret.Name)
	case member.State != stateUninitialized:
	case secret != nil:
		say(false, "Provisioning", "the token with serial number %q gets the SO PIN of Secret %s/%s: %s", a.serial, secret.Namespace, secret.Name, member.Message)
	case member.StoreID != "":
		say(true, "NotProvisioned", "the token with serial number %q has held store %s, and has no user PIN: it was wiped, or is another one. It is not initialised", a.serial, member.StoreID)
	default:
		name, err := r.makeSOPIN(ctx, a)
		if err != nil {
			return err
		}
		say(false, "ProvisioningStarted", "the token with serial number %q has no user PIN: an SO PIN was made for it, in Secret %s", a.serial, name)
	}
	return nil
}

// member returns the token of an agent as a pool of its HSMDevice lists it; nil if none
// does.
func (f *facts) member(a agent) (pool *v1alpha1.HSMPool, member *v1alpha1.PoolMember) {
	for _, pool := range f.pools {
		if pool.Namespace != a.device.Namespace || !slices.Contains(pool.Spec.HSMDeviceRefs, a.device.Name) {
			continue
		}
		for j := range pool.Status.Members {
			if pool.Status.Members[j].SerialNumber == a.serial {
				return pool, &pool.Status.Members[j]
			}
		}
	}
	return nil, nil
}

// soPINSecret returns the metadata of the Secret; nil if there is none.
func (r *reconciler) soPINSecret(ctx context.Context, a agent) (*metav1.PartialObjectMetadata, error) {
	secret := metadataOf(secretKind)
	err := r.client.Get(ctx, types.NamespacedName{Namespace: r.SystemNamespace, Name: SOPINSecret(a.name())}, secret)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the Secret of an SO PIN: %w", err)
	}
	return secret, nil
}

// makeSOPIN makes an SO PIN, and returns the name of the only Secret that holds it.
func (r *reconciler) makeSOPIN(ctx context.Context, a agent) (types.NamespacedName, error) {
	random := make([]byte, soPINBytes)
	_, _ = rand.Read(random) // Never fails.
	pin := make([]byte, hex.EncodedLen(soPINBytes))
	hex.Encode(pin, random)
	name := types.NamespacedName{Namespace: r.SystemNamespace, Name: SOPINSecret(a.name())}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: name.Namespace,
			Name:      name.Name,
			Labels:    map[string]string{soPINLabel: a.name(), partOfLabel: partOf},
			Annotations: map[string]string{
				SerialAnnotation: a.serial,
				WarningAnnotation: fmt.Sprintf("This is the only copy of the PIN of the security officer of the token with serial number %q. "+
					"It unblocks and erases the token. After the Event Provisioned, take it to a safe and delete this Secret: it is not made again.", a.serial),
			},
		},
		Data:      map[string][]byte{soPINKey: pin},
		Type:      corev1.SecretTypeOpaque,
		Immutable: new(true),
	}
	if err := r.client.Create(ctx, secret, client.FieldOwner(identity.AgentsFieldManager)); err != nil {
		return name, fmt.Errorf("make Secret %s for an SO PIN: %w", name, err)
	}
	klog.FromContext(ctx).Info("SO PIN made", "secret", name, "serial", a.serial)
	return name, nil
}
