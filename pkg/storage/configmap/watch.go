// SPDX-License-Identifier: Apache-2.0

package configmap

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// follower is one watch of the host. It keeps the records as the reader has seen them,
// because an event of the host does not contain the previous object.
type follower struct {
	*backend
	ctx      context.Context
	prefix   string
	host     watch.Interface
	position uint64
	seen     map[string]*agentv1.Record
}

// Watch implements records.Backend.
func (b *backend) Watch(ctx context.Context, in *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	list, revision, err := b.listAll(ctx, in.GetRevision())
	if err != nil {
		return nil, nil, err
	}
	f := &follower{backend: b, ctx: ctx, prefix: in.GetPrefix(), position: revision, seen: map[string]*agentv1.Record{}}
	for _, r := range list {
		f.seen[r.GetKey()] = r
	}
	if err := f.begin(); err != nil {
		return nil, nil, err
	}
	return &agentv1.WatchResponse{Revision: revision}, f.next, nil
}

func (f *follower) begin() (err error) {
	f.host, err = f.client.Watch(f.ctx, metav1.ListOptions{
		LabelSelector:       f.selector(),
		ResourceVersion:     strconv.FormatUint(f.position, 10),
		AllowWatchBookmarks: true,
	})
	if err != nil {
		return hostError(err)
	}
	return nil
}

func (f *follower) next() (*agentv1.WatchResponse, error) {
	for {
		event, open := <-f.host.ResultChan()
		if err := f.ctx.Err(); err != nil {
			return nil, err
		}
		if !open {
			// The host ends every watch after a while.
			if err := f.begin(); err != nil {
				return nil, err
			}
			continue
		}
		response, err := f.translate(event)
		if err != nil {
			f.host.Stop()
		}
		return response, err
	}
}

func (f *follower) translate(event watch.Event) (*agentv1.WatchResponse, error) {
	if event.Type == watch.Error {
		return nil, hostError(apierrors.FromObject(event.Object))
	}
	m, ok := event.Object.(*corev1.ConfigMap)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("the host sent a %T in a watch of ConfigMaps", event.Object))
	}
	revision, err := parseRevision(m.ResourceVersion)
	if err != nil {
		return nil, err
	}
	f.position = revision
	response := &agentv1.WatchResponse{Revision: revision}
	if event.Type == watch.Bookmark {
		return response, nil
	}
	r, err := f.record(m)
	if err != nil {
		return nil, err
	}
	change := &agentv1.Event{Type: agentv1.Event_TYPE_PUT, Revision: revision, Record: r, Previous: f.seen[r.GetKey()]}
	if event.Type == watch.Deleted {
		change.Type, change.Record, change.Previous = agentv1.Event_TYPE_DELETE, nil, r
		delete(f.seen, r.GetKey())
	} else {
		f.seen[r.GetKey()] = r
	}
	if strings.HasPrefix(r.GetKey(), f.prefix) {
		response.Events = append(response.Events, change)
	}
	return response, nil
}
