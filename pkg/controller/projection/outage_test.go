// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func TestIsAway(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	_, unreached := http.Get(gone.URL) //nolint:bodyclose // There is nobody to answer.
	secrets := schema.GroupResource{Resource: "secrets"}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{unreached, true},
		{fmt.Errorf("read: %w", unreached), true},
		{fmt.Errorf("read: %w", apierrors.NewServiceUnavailable("no token")), true},
		{apierrors.NewTimeoutError("unknown", 0), true},
		{apierrors.NewTooManyRequests("busy", 1), true},
		{storage.NewTooLargeResourceVersionError(2, 1, 0), false},
		{apierrors.NewNotFound(secrets, "db"), false},
		{apierrors.NewForbidden(secrets, "db", nil), false},
		{apierrors.NewConflict(secrets, "db", nil), false},
		{apierrors.NewInternalError(errors.New("broken")), false},
		{context.Canceled, false},
		{errNotConverging, false},
	} {
		if got := isAway(c.err); got != c.want {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}

// TestOutage has many objects wait for a token that is away: one request a
// second goes through.
func TestOutage(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakeClock(time.Now())
	o := &outage{clock: clock}
	away := apierrors.NewServiceUnavailable("no token")
	if o.wait() != 0 {
		t.Fatal("it waits for nothing")
	}
	if o.note(nil) || !o.note(away) || o.note(away) {
		t.Error("it tells of other changes than there were")
	}
	requests := 0
	const seconds = 60
	for range seconds * 10 {
		for range 100 {
			switch wait := o.wait(); {
			case wait == 0:
				requests++
				o.note(away)
			case wait > 2*probeInterval:
				t.Fatalf("an object waits for %s", wait)
			}
		}
		clock.Step(100 * time.Millisecond)
	}
	if requests > seconds {
		t.Errorf("%d requests in %d seconds", requests, seconds)
	}
	if !o.note(nil) || o.wait() != 0 {
		t.Error("it waits although the token is back")
	}
}

// TestInformerWaits has the API server away for longer than a reflector would
// take to back off: the first list after its return is made within two seconds.
func TestInformerWaits(t *testing.T) {
	t.Parallel()
	var lists atomic.Int32
	informer := NewInformer(&cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			if lists.Add(1) <= 3 {
				return nil, apierrors.NewServiceUnavailable("no token")
			}
			return &corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			return nil, apierrors.NewServiceUnavailable("no token")
		},
	}, &corev1.Secret{}, 0, cache.Indexers{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	began := time.Now()
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("it never lists")
	}
	if took, most := time.Since(began), 4*2*probeInterval; took > most {
		t.Errorf("four lists took %s, want at most %s", took, most)
	}
}

// allows is a client that answers whether the right to values is there.
func allows(t *testing.T, allowed *bool) client.Client {
	return interceptor.NewClient(nil, interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, object client.Object, _ ...client.CreateOption) error {
			review := object.(*authorizationv1.SelfSubjectAccessReview)
			if a := review.Spec.ResourceAttributes; a.Verb != "get" || a.Group != "hsm.j5t.io" || a.Resource != "hsmsecrets" || a.Subresource != "data" || a.Namespace != "app" || a.Name != "db" {
				t.Errorf("asked for %+v", a)
			}
			review.Status.Allowed = *allowed
			return nil
		},
	})
}

// TestValuesAreShown has the right to values be missing, and then be there:
// hidden values are never taken for empty ones.
func TestValuesAreShown(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakeClock(time.Now())
	allowed := false
	v := &values{client: allows(t, &allowed), clock: clock, denied: clock.Now().Add(-time.Hour)}
	h := testHSMSecret()
	check := func(what string, want bool) {
		t.Helper()
		if err := v.areShown(t.Context(), h); (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("values", true)
	h.Data = nil
	check("no data", true)
	h.Data = map[string][]byte{"a": {}, "b": nil}
	check("denied", false)
	allowed = true
	check("just granted", false)
	clock.Step(grantTime)
	check("granted", true)
	allowed = false
	check("denied again", false)
	h.Data["b"] = []byte("x")
	check("one value", true)
}
