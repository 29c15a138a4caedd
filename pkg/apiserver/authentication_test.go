// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// bundle is a CA bundle that is loaded late.
type bundle struct {
	dynamiccertificates.CAContentProvider
	content atomic.Pointer[[]byte]
	looked  chan struct{}
}

func (b *bundle) CurrentCABundleContent() []byte {
	select {
	case b.looked <- struct{}{}:
	default:
	}
	if content := b.content.Load(); content != nil {
		return *content
	}
	return nil
}

func TestWaitForAuthenticationConfig(t *testing.T) {
	t.Parallel()
	b := &bundle{looked: make(chan struct{})}
	hook := waitForAuthenticationConfig(&authenticatorfactory.RequestHeaderConfig{
		CAContentProvider: b, UsernameHeaders: headerrequest.StaticStringSlice{"X-Remote-User"},
	})
	done := make(chan error, 1)
	go func() { done <- hook(genericapiserver.PostStartHookContext{Context: t.Context()}) }()
	for range 3 {
		<-b.looked
	}
	select {
	case err := <-done:
		t.Fatalf("the server is ready before it can authenticate its callers (%v)", err)
	default:
	}
	content := []byte("PEM")
	b.content.Store(&content)
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the server does not become ready")
	}
}
