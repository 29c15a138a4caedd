// SPDX-License-Identifier: Apache-2.0

// Package configmap keeps each record in a ConfigMap of one namespace of the host
// cluster. It owns the form of a record in a ConfigMap. It never touches another
// namespace, and never takes over a ConfigMap that it has not made.
package configmap

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

// timeout bounds each request to the host, watches excepted.
const timeout = 30 * time.Second

// backend keeps the records of one resource. Its revisions are the resourceVersions of
// the host. It is made for dozens of objects: the host cannot list ConfigMaps by key,
// so every list reads all of them.
type backend struct {
	client   coreclient.ConfigMapInterface
	resource string
}

// New keeps the records of a resource in a namespace of the host. Only data of
// records is kept, which must be text.
func New(client coreclient.ConfigMapsGetter, namespace, resource string) records.Backend {
	return &backend{client: client.ConfigMaps(namespace), resource: resource}
}

// Decorator lets genericregistry.Store keep its objects in a namespace of the host.
func Decorator(client coreclient.ConfigMapsGetter, namespace string) generic.StorageDecorator {
	return records.Decorator(
		func(resource schema.GroupResource) records.Backend { return New(client, namespace, resource.Resource) },
		func(codec runtime.Codec) records.Layout { return records.Whole{Codec: codec} },
	)
}

// Get implements records.Backend. It lists, because only a list has the revision as
// of which it was read.
func (b *backend) Get(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	name := b.name(in.GetKey())
	list, revision, err := b.list(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()})
	if err != nil {
		return nil, err
	}
	response := &agentv1.GetResponse{Revision: revision}
	if len(list) > 0 {
		response.Record = list[0]
	}
	return response, nil
}

// List implements records.Backend.
func (b *backend) List(ctx context.Context, in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	list, revision, err := b.listAll(ctx, in.GetRevision())
	if err != nil {
		return nil, nil, err
	}
	list = slices.DeleteFunc(list, func(r *agentv1.Record) bool {
		return !strings.HasPrefix(r.GetKey(), in.GetPrefix()) || r.GetKey() < in.GetStartKey()
	})
	end := &agentv1.ListEnd{Revision: revision}
	if limit := in.GetLimit(); limit > 0 && limit < int64(len(list)) {
		end.Remaining = int64(len(list)) - limit
		list = list[:limit]
	}
	return list, end, nil
}

// Commit implements records.Backend.
func (b *backend) Commit(ctx context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var changed *corev1.ConfigMap
	var err error
	switch {
	case in.GetSetStatus() != nil:
		return nil, apierrors.NewInternalError(errors.New("a record in a ConfigMap has no status of its own"))
	case in.GetDelete() != nil:
		changed, err = b.delete(ctx, b.name(in.GetKey()), in.GetExpectedRevision())
	case in.GetExpectedRevision() == 0:
		changed, err = b.client.Create(ctx, b.configMap(in), metav1.CreateOptions{})
	default:
		changed = b.configMap(in)
		changed.ResourceVersion = strconv.FormatUint(in.GetExpectedRevision(), 10)
		changed, err = b.client.Update(ctx, changed, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.IsConflict(err), in.GetExpectedRevision() == 0 && apierrors.IsAlreadyExists(err),
		in.GetExpectedRevision() != 0 && apierrors.IsNotFound(err):
		return &agentv1.CommitResponse{Revision: in.GetExpectedRevision()}, nil
	case err != nil:
		return nil, hostError(err)
	}
	revision, err := parseRevision(changed.ResourceVersion)
	return &agentv1.CommitResponse{Committed: true, Revision: revision, DataRevision: revision}, err
}

// delete returns the ConfigMap as of its deletion. The host reports the revision of a
// deletion to watches only. The watch starts now, and not at the expected revision,
// which may be older than the host's history.
func (b *backend) delete(ctx context.Context, name string, expected uint64) (*corev1.ConfigMap, error) {
	version := strconv.FormatUint(expected, 10)
	w, err := b.client.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String(),
	})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	err = b.client.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	if err != nil {
		return nil, err
	}
	for event := range w.ResultChan() {
		m, ok := event.Object.(*corev1.ConfigMap)
		if !ok || event.Type != watch.Deleted {
			continue
		}
		// An earlier ConfigMap of the name was deleted before this version was written.
		if revision, err := parseRevision(m.ResourceVersion); err != nil || revision > expected {
			return m, err
		}
	}
	return nil, apierrors.NewTimeoutError("it was deleted, but the host has not reported the resourceVersion of the deletion", 0)
}

// Revisions implements records.Backend. The host does not say which its oldest is.
func (b *backend) Revisions(ctx context.Context) (current, oldest uint64, err error) {
	_, current, err = b.list(ctx, metav1.ListOptions{LabelSelector: b.selector(), Limit: 1})
	return current, 0, err
}

// listAll reads all records as of a revision, in key order; 0 is now.
func (b *backend) listAll(ctx context.Context, revision uint64) ([]*agentv1.Record, uint64, error) {
	options := metav1.ListOptions{LabelSelector: b.selector()}
	if revision != 0 {
		options.ResourceVersion = strconv.FormatUint(revision, 10)
		options.ResourceVersionMatch = metav1.ResourceVersionMatchExact
	}
	return b.list(ctx, options)
}

func (b *backend) list(ctx context.Context, options metav1.ListOptions) ([]*agentv1.Record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := b.client.List(ctx, options)
	if err != nil {
		return nil, 0, hostError(err)
	}
	revision, err := parseRevision(answer.ResourceVersion)
	if err != nil {
		return nil, 0, err
	}
	var list []*agentv1.Record
	for i := range answer.Items {
		r, err := b.record(&answer.Items[i])
		if err != nil {
			return nil, 0, err
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *agentv1.Record) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	return list, revision, nil
}

func (b *backend) selector() string {
	return labels.SelectorFromSet(labels.Set{ResourceLabel: b.resource}).String()
}
