// SPDX-License-Identifier: Apache-2.0

package configmap

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/storage"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

const (
	// ResourceLabel is on every ConfigMap that holds a record. Its value is the
	// resource, as hsmdevices.
	ResourceLabel = "hsm.j5t.io/resource"

	keyEntry    = "key"
	objectEntry = "object"
)

// name returns the name of a record's ConfigMap: RESOURCE.NAMESPACE.NAME if that is a
// valid name, else RESOURCE.HASH. The first form has one dot more, and namespaces have
// none, so no two keys share a name.
func (b *backend) name(key string) string {
	_, object, _ := strings.Cut(key, "/"+b.resource+"/")
	namespace, name, _ := strings.Cut(object, "/")
	plain := b.resource + "." + namespace + "." + name
	if len(validation.IsDNS1123Label(namespace)) == 0 && len(validation.IsDNS1123Subdomain(plain)) == 0 {
		return plain
	}
	hash := sha256.Sum256([]byte(key))
	return b.resource + "." + hex.EncodeToString(hash[:])
}

func (b *backend) configMap(in *agentv1.CommitRequest) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name:   b.name(in.GetKey()),
			Labels: map[string]string{ResourceLabel: b.resource},
		},
		Data: map[string]string{
			keyEntry:    in.GetKey(),
			objectEntry: string(in.GetPut().GetData()),
		},
	}
}

// record reads what configMap has written. A ConfigMap that somebody else has made, or
// labelled, is an error of the whole request: nobody knows which object it should be.
func (b *backend) record(m *corev1.ConfigMap) (*agentv1.Record, error) {
	key, known := m.Data[keyEntry]
	var why string
	switch {
	case m.Labels[ResourceLabel] != b.resource:
		why = fmt.Sprintf("does not have the label %s=%s", ResourceLabel, b.resource)
	case !known:
		why = fmt.Sprintf("has no entry %q", keyEntry)
	case m.Name != b.name(key):
		why = fmt.Sprintf("does not have the name that its key requires, %s", b.name(key))
	default:
		revision, err := parseRevision(m.ResourceVersion)
		return &agentv1.Record{Key: key, Data: []byte(m.Data[objectEntry]), Revision: revision, DataRevision: revision}, err
	}
	return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure,
		Code:   http.StatusInternalServerError,
		Reason: metav1.StatusReasonStoreReadError,
		Message: fmt.Sprintf("ConfigMap %s/%s was not written by this server as one of the %s: it %s; delete it, or remove its label %s",
			m.Namespace, m.Name, b.resource, why, ResourceLabel),
	}}
}

func parseRevision(resourceVersion string) (uint64, error) {
	revision, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0, apierrors.NewInternalError(fmt.Errorf("the host gave the resourceVersion %q, which is not a number", resourceVersion))
	}
	return revision, nil
}

// hostError maps an error of the host to one for clients of our API. Statuses of the
// host pass, unless they would be wrong about our objects.
func hostError(err error) error {
	var said apierrors.APIStatus
	switch {
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return fmt.Errorf("%w: %w", records.ErrExpired, err)
	case storage.IsTooLargeResourceVersion(err):
		return fmt.Errorf("%w: %w", records.ErrFutureRevision, err)
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return apierrors.NewInternalError(fmt.Errorf("the host does not let this server use its ConfigMaps (check its namespace and its Role): %w", err))
	case errors.As(err, &said):
		return err
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("the kube-apiserver of the host, which keeps this resource, cannot be reached: %v", err))
}
