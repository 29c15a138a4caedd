// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// loadInterval is between two looks. The TLS listener takes over within
// milliseconds what was loaded, so it has done at the look after that.
const loadInterval = 50 * time.Millisecond

// untilCallersAreKnown ends when the server can tell who its callers are; it is
// not ready before. k8s.io/apiserver loads whom to believe from the host cluster
// when it listens already, and takes the callers of kube-apiserver for anonymous
// until then: it would refuse them with 403. A connection made meanwhile stays so.
func untilCallersAreKnown(config *authenticatorfactory.RequestHeaderConfig) genericapiserver.PostStartHookFunc {
	return func(hook genericapiserver.PostStartHookContext) error {
		loadedBefore := false
		// It fails only when the server stops.
		_ = wait.PollUntilContextCancel(hook, loadInterval, true, func(context.Context) (bool, error) {
			loaded := len(config.CAContentProvider.CurrentCABundleContent()) > 0 && len(config.UsernameHeaders.Value()) > 0
			done := loaded && loadedBefore
			loadedBefore = loaded
			return done, nil
		})
		return nil
	}
}
