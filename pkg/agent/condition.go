// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"google.golang.org/grpc/codes"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// condition is the state of the token as callers see it: served if it has no
// reason. The message says what happened, to what, and what to do.
type condition struct {
	reason  agentv1.Reason
	message string
}

func (c condition) ready() bool { return c.reason == agentv1.Reason_REASON_UNSPECIFIED }

// transient reports whether the condition may pass without a person's doing.
func (c condition) transient() bool {
	switch c.reason {
	case agentv1.Reason_REASON_TOKEN_ABSENT, agentv1.Reason_REASON_LOADING, agentv1.Reason_REASON_STATE_DIR:
		return true
	}
	return false
}

// err is nil when the token is served.
func (c condition) err() error {
	if c.ready() {
		return nil
	}
	return agentv1.NewError(codes.Unavailable, c.reason, "%s", c.message)
}
