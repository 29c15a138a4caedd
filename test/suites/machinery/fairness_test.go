// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"fmt"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/test/framework/await"
)

// TestPriorityAndFairness lets a FlowSchema of the host cluster decide in which
// priority level our server handles a user's requests.
func TestPriorityAndFairness(t *testing.T) {
	config := direct(t, newUser(t, "fair"))
	schema, err := host.FlowcontrolV1().FlowSchemas().Create(t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: "hsm-fair"},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "workload-low"},
			MatchingPrecedence:         100,
			DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "fair"}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
					Verbs: []string{"*"}, APIGroups: []string{"hsm.j5t.io"}, Resources: []string{"*"}, Namespaces: []string{"*"},
				}},
			}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	level, err := host.FlowcontrolV1().PriorityLevelConfigurations().Get(t.Context(), "workload-low", metav1.GetOptions{})
	must(t, err)
	await.NoError(t, 30*time.Second, func(context.Context) error {
		header := get(t, config, fmt.Sprintf(path, "default"), nil).header
		flow, priority := header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID), header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID)
		if flow != string(schema.UID) || priority != string(level.UID) {
			return fmt.Errorf("handled by flow schema %q and priority level %q, want %q and %q", flow, priority, schema.UID, level.UID)
		}
		return nil
	})

	// kube-apiserver writes the same status, and mostly first: that ours could is
	// asked for.
	review, err := host.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:hsm-system:hsm-apiserver",
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas", Subresource: "status", Verb: "patch", Name: schema.Name,
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	if !review.Status.Allowed {
		t.Error("our server may not write the status of FlowSchemas")
	}
}
