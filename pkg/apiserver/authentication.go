// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// loadInterval is the time between two checks. The TLS listener uses a new
// configuration within milliseconds, so it does at the check after the next.
const loadInterval = 50 * time.Millisecond

// waitForAuthenticationConfig keeps the server from being ready until it has loaded
// the request header configuration of the host cluster. k8s.io/apiserver loads it
// while the server listens already. Until then, users behind kube-apiserver are
// anonymous, and would be refused with 403; on a connection made meanwhile they stay
// anonymous.
func waitForAuthenticationConfig(config *authenticatorfactory.RequestHeaderConfig) genericapiserver.PostStartHookFunc {
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
