// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// AllowList is the ConfigMap of the system namespace that lists the Secrets of
// other namespaces which may be used as PINs: a NAMESPACE/NAME on each line of each
// entry.
const AllowList = "hsm-pin-secrets"

// pinKey is the key of the PIN in a copy, and the file of it for the agent.
const pinKey = "pin"

// pin is where an agent's pod finds its PIN, in the system namespace.
type pin struct {
	secret, key string
	// copied is the PIN that the Secret must hold, if it is a copy; nil if there is no PIN to
	// copy now.
	copied []byte
	isCopy bool
}

// pinCopySecret is the Secret of an agent that holds a copy of a PIN.
func pinCopySecret(agent string) string { return agent + "-pin" }

// findPINs finds the PINs of all desired agents. An agent whose PIN Secret must not be used
// is left out.
func (r *reconciler) findPINs(ctx context.Context, f *facts, p *plan) []desiredAgent {
	sources := pinSources{reconciler: r}
	var agents []desiredAgent
	for _, a := range p.desired {
		found, notes, err := sources.pinOf(ctx, a, f.devices[a.device])
		p.notices = append(p.notices, notes...)
		switch {
		case err != nil:
			agents = append(agents, desiredAgent{agent: a, err: err})
		case found != nil:
			agents = append(agents, desiredAgent{agent: a, pin: *found})
		}
	}
	return agents
}

// pinSources reads the allow-list and the Secrets once for all agents.
type pinSources struct {
	*reconciler
	allowed map[string]bool // nil: not read yet.
	secrets map[types.NamespacedName]*corev1.Secret
}

// pinOf returns nil if the agent must not have its PIN.
func (s *pinSources) pinOf(ctx context.Context, a agent, device *v1alpha1.HSMDevice) (*pin, []notice, error) {
	ref := device.Spec.PKCS11.PINSecret
	source := types.NamespacedName{Namespace: cmp.Or(ref.Namespace, device.Namespace), Name: ref.Name}
	key := cmp.Or(ref.Key, pinKey)
	if source.Namespace == s.SystemNamespace {
		return &pin{secret: source.Name, key: key}, nil, nil
	}
	allowed, err := s.isAllowed(ctx, source)
	if err != nil {
		return nil, nil, err
	}
	if !allowed {
		return nil, []notice{{device: a.device, warning: true, reason: "PINSecretNotAllowed", message: fmt.Sprintf(
			"Secret %s is of another namespace than %s: to let agents use it, add a line %q to an entry of ConfigMap %s in namespace %s",
			source, s.SystemNamespace, source, AllowList, s.SystemNamespace)}}, nil
	}
	p := &pin{secret: pinCopySecret(a.name()), key: pinKey, isCopy: true}
	secret, err := s.secret(ctx, source)
	if err != nil {
		return nil, nil, err
	}
	if secret != nil {
		p.copied = secret.Data[key]
	}
	if len(p.copied) == 0 {
		return p, []notice{{device: a.device, warning: true, reason: "PINSecretMissing", message: fmt.Sprintf(
			"Secret %s with a PIN under key %q does not exist: create it. An agent that has a PIN already keeps it", source, key)}}, nil
	}
	return p, nil, nil
}

func (s *pinSources) isAllowed(ctx context.Context, source types.NamespacedName) (bool, error) {
	if s.allowed == nil {
		list := &corev1.ConfigMap{}
		err := s.client.Get(ctx, types.NamespacedName{Namespace: s.SystemNamespace, Name: AllowList}, list)
		if err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("read ConfigMap %s: %w", AllowList, err)
		}
		s.allowed = map[string]bool{}
		for _, entry := range list.Data {
			for line := range strings.Lines(entry) {
				s.allowed[strings.TrimSpace(line)] = true
			}
		}
	}
	return s.allowed[source.String()], nil
}

// secret returns nil if there is none.
func (s *pinSources) secret(ctx context.Context, name types.NamespacedName) (*corev1.Secret, error) {
	if secret, known := s.secrets[name]; known {
		return secret, nil
	}
	secret := &corev1.Secret{}
	err := s.client.Get(ctx, name, secret)
	if apierrors.IsNotFound(err) {
		secret, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	if s.secrets == nil {
		s.secrets = map[types.NamespacedName]*corev1.Secret{}
	}
	s.secrets[name] = secret
	return secret, nil
}

// ensurePIN applies the copy of a PIN, and removes one that is not used.
func (r *reconciler) ensurePIN(ctx context.Context, existing existingObjects, a agent, device *v1alpha1.HSMDevice, p pin) error {
	name := pinCopySecret(a.name())
	if !p.isCopy {
		if old := existing[secretKind][name]; old != nil {
			return r.delete(ctx, secretKind, old)
		}
		return nil
	}
	if len(p.copied) == 0 {
		return nil
	}
	secret := corev1ac.Secret(name, r.SystemNamespace).WithType(corev1.SecretTypeOpaque).WithData(map[string][]byte{pinKey: slices.Clone(p.copied)})
	secret.ObjectMetaApplyConfiguration = r.meta(name, a, device)
	return r.apply(ctx, existing, secretKind, name, secret)
}
