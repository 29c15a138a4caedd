// SPDX-License-Identifier: Apache-2.0

package records

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// maxCorrupt is how many corrupt objects the error of one list names, as many
// as that of etcd3 (KEP-3926).
const maxCorrupt = 100

// readError is the error of an object that could not be put together. Where
// corrupt objects may be deleted unread (KEP-3926), it says that this is one.
func (s *Store) readError(key string, err error) error {
	switch {
	case err == nil:
		return nil
	case isCorrupt(err):
		return storage.NewCorruptObjError(key, err)
	}
	return storage.NewInternalError(err)
}

func isCorrupt(err error) bool {
	return errors.Is(err, ErrCorrupt) && utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
}

// listErrors collects the corrupt objects of a list, so that one request finds them
// all. A list with a corrupt object fails: an object that cannot be read was not
// deleted.
type listErrors struct {
	resource schema.GroupResource
	causes   []metav1.StatusCause
	first    error
}

// add takes the error of one object. It returns the error of the whole list when
// there is no use in reading on.
func (l *listErrors) add(key string, err error) error {
	item := storage.NewInternalError(fmt.Errorf("unable to transform key %q: %w", key, err))
	switch {
	case isCorrupt(err):
		if l.first == nil {
			l.first = item
		}
		l.causes = append(l.causes, metav1.StatusCause{
			Type:    metav1.CauseTypeUnexpectedServerResponse,
			Field:   key,
			Message: storage.NewCorruptObjError(key, err).Error(),
		})
		if len(l.causes) < maxCorrupt {
			return nil
		}
		l.causes = append(l.causes, metav1.StatusCause{
			Type:    metav1.CauseTypeTooMany,
			Message: "too many errors, the list is truncated",
		})
	case l.first == nil:
		return item
	default:
		l.causes = append(l.causes, metav1.StatusCause{
			Type:    metav1.CauseTypeUnexpectedServerResponse,
			Message: item.Error(),
		})
	}
	return l.err()
}

// err is the error of the list, if any of its objects is corrupt.
func (l *listErrors) err() error {
	if l.first == nil {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInternalServerError,
		Reason:  metav1.StatusReasonStoreReadError,
		Message: fmt.Sprintf("failed to read one or more %s from the storage: %v", l.resource, l.first),
		Details: &metav1.StatusDetails{
			Group:  l.resource.Group,
			Kind:   l.resource.Resource,
			Name:   "list",
			Causes: l.causes,
		},
	}}
}
