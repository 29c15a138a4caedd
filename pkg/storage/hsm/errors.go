// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

// StatusReasonInsufficientStorage is the reason of status code 507, for which
// Kubernetes has none.
const StatusReasonInsufficientStorage metav1.StatusReason = "InsufficientStorage"

// The causes of a 503 that no agent has given. The others are the names of the
// agents' reasons without REASON_.
const (
	// CauseAgentUnreachable: no agent could be reached, or it did not answer.
	CauseAgentUnreachable metav1.CauseType = "AGENT_UNREACHABLE"
	// CauseAgentRefuses: the agent does not accept this server as a client.
	CauseAgentRefuses metav1.CauseType = "AGENT_REFUSES"
	// CauseNoAgent: no agent is known.
	CauseNoAgent metav1.CauseType = "NO_AGENT"
	// CauseSeveralStores: the cluster is bound to no store, and the agents have several.
	CauseSeveralStores metav1.CauseType = "SEVERAL_STORES"
	// CauseStoreUnknown: the binding of the cluster to a store cannot be read.
	CauseStoreUnknown metav1.CauseType = "STORE_UNKNOWN"
)

// The causes for which this client closes a connection.
var (
	errSilent  = errors.New("it does not answer")
	errMoved   = errors.New("the store has moved to another agent")
	errRebound = errors.New("the cluster was bound to another store")
	errClosed  = apierrors.NewServiceUnavailable("the server is shutting down")
)

func isOurs(err error) bool {
	return errors.Is(err, errSilent) || errors.Is(err, errMoved) || errors.Is(err, errRebound)
}

// noAgent is the error of a client that has no agent.
func noAgent(known bool) error {
	if !known {
		return unavailable(CauseNoAgent, "the HSMPools, which name the HSM agents, have not been read yet; try again in a moment")
	}
	return unavailable(CauseNoAgent, "no HSMPool has an agent: plug in a token that an HSMDevice describes; kubectl get hsmpools --all-namespaces shows what was found")
}

// kind of a call: it decides what a failure means.
type kind int

const (
	notSent  kind = iota // It has not reached the agent.
	isRead               // It changes nothing.
	isChange             // It may have taken effect although it failed.
)

// apiError maps the error of a call to one that clients of the API can act on.
// It is the only place that does. No error carries a number of seconds after which
// to retry: client-go would make ten attempts before its user saw the error.
//
//	reason of the agent                             error
//	TOKEN_ABSENT, TOKEN_BLANK, TOKEN_UNINITIALIZED,
//	TOKEN_FOREIGN, PIN_REJECTED, PIN_LOCKED,
//	CORRUPT, LOADING, FENCED, STATE_DIR             503 ServiceUnavailable
//	FULL                                            507 InsufficientStorage
//	TOO_LARGE                                       413 RequestEntityTooLarge
//	OUTCOME_UNKNOWN                                 504 Timeout
//	ADDRESS_IN_USE, EXPIRED, FUTURE_REVISION        those of package records
//
// Without a reason, the code decides. An agent that cannot be reached, does not
// answer, or refuses this server is 503. A change that was sent to it is 504: its
// outcome is unknown.
func apiError(address string, err error, kind kind) error {
	if err == nil || errors.Is(err, errClosed) {
		return err
	}
	said, _ := status.FromError(err)
	message := fmt.Sprintf("HSM agent %s: %s", address, said.Message())
	reason := agentv1.ReasonOf(err)
	if isUnserved(err) {
		return unavailable(metav1.CauseType(strings.TrimPrefix(reason.String(), "REASON_")), message)
	}
	switch reason {
	case agentv1.Reason_REASON_FULL:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status:  metav1.StatusFailure,
			Code:    http.StatusInsufficientStorage,
			Reason:  StatusReasonInsufficientStorage,
			Message: message,
		}}
	case agentv1.Reason_REASON_TOO_LARGE:
		return apierrors.NewRequestEntityTooLargeError(message)
	case agentv1.Reason_REASON_OUTCOME_UNKNOWN:
		return apierrors.NewTimeoutError(message, 0)
	case agentv1.Reason_REASON_ADDRESS_IN_USE:
		return fmt.Errorf("%w: %s", records.ErrAddressInUse, message)
	case agentv1.Reason_REASON_EXPIRED:
		return fmt.Errorf("%w: %s", records.ErrExpired, message)
	case agentv1.Reason_REASON_FUTURE_REVISION:
		return fmt.Errorf("%w: %s", records.ErrFutureRevision, message)
	}

	byAgent := len(said.Details()) > 0
	switch {
	case byAgent && said.Code() == codes.PermissionDenied:
		return unavailable(CauseAgentRefuses, message+"; check the client certificate of this server")
	case byAgent && said.Code() == codes.InvalidArgument:
		return apierrors.NewBadRequest(message)
	case byAgent && (said.Code() == codes.DeadlineExceeded || said.Code() == codes.Canceled):
		return apierrors.NewTimeoutError(message, 0)
	case byAgent:
		return apierrors.NewInternalError(errors.New(message))
	case kind == isChange:
		return apierrors.NewTimeoutError(message+"; the change may or may not have been made: read the object to find out", 0)
	case isOurs(err), said.Code() == codes.Unavailable:
		return unavailable(CauseAgentUnreachable, message+"; check that the agent runs, its address, and the certificates of both sides")
	case said.Code() == codes.DeadlineExceeded, said.Code() == codes.Canceled:
		return apierrors.NewTimeoutError(message, 0)
	}
	return apierrors.NewInternalError(errors.New(message))
}

// isLost reports whether the connection was lost. An agent that answers that it
// cannot serve gives a reason with its error.
func isLost(err error) bool {
	said, _ := status.FromError(err)
	return said.Code() == codes.Unavailable && len(said.Details()) == 0
}

// isUnserved reports whether an agent does not serve its store: nothing was done.
func isUnserved(err error) bool {
	switch agentv1.ReasonOf(err) {
	case agentv1.Reason_REASON_TOKEN_ABSENT, agentv1.Reason_REASON_TOKEN_BLANK, agentv1.Reason_REASON_TOKEN_UNINITIALIZED, agentv1.Reason_REASON_TOKEN_FOREIGN,
		agentv1.Reason_REASON_PIN_REJECTED, agentv1.Reason_REASON_PIN_LOCKED, agentv1.Reason_REASON_CORRUPT,
		agentv1.Reason_REASON_LOADING, agentv1.Reason_REASON_FENCED, agentv1.Reason_REASON_STATE_DIR:
		return true
	}
	return false
}

// unavailable is a 503 with its cause, which programs can read.
func unavailable(cause metav1.CauseType, message string) error {
	err := apierrors.NewServiceUnavailable(message)
	err.ErrStatus.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: cause, Message: message}}}
	return err
}

// mostTelling returns the failure to report when no agent could be used: best that
// of an agent of the store that said why, then that of an agent of another store,
// and last that of one that did not answer.
func mostTelling(failures []error) error {
	rank := func(err error) int {
		switch {
		case apierrors.HasStatusCause(err, CauseAgentUnreachable):
			return 2
		case apierrors.HasStatusCause(err, "TOKEN_FOREIGN"):
			return 1
		}
		return 0
	}
	return slices.MinFunc(failures, func(a, b error) int { return rank(a) - rank(b) })
}
