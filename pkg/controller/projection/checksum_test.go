// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// TestKeyThatIsNotShown has the key be hidden, and then be broken. Whoever deletes
// a key that is only hidden changes all checksums for nothing.
func TestKeyThatIsNotShown(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakeClock(time.Now())
	data, allowed := map[string][]byte{keyData: {}}, false
	c := interceptor.NewClient(nil, interceptor.Funcs{
		Get: func(_ context.Context, _ client.WithWatch, _ client.ObjectKey, object client.Object, _ ...client.GetOption) error {
			object.(*v1alpha1.HSMSecret).Data = data
			return nil
		},
		Create: func(_ context.Context, _ client.WithWatch, object client.Object, _ ...client.CreateOption) error {
			object.(*authorizationv1.SelfSubjectAccessReview).Status.Allowed = allowed
			return nil
		},
	})
	k := &keys{client: c, values: &values{client: c, clock: clock}, name: types.NamespacedName{Namespace: "system", Name: KeyName}}
	for _, step := range []struct {
		name    string
		allowed bool
		key     string
		says    string
	}{
		{name: "hidden", says: "hsmsecrets/data"},
		{name: "just granted", allowed: true, says: errRightTooNew.Error()},
		{name: "broken", allowed: true, key: "short", says: "delete it to have a new key made"},
	} {
		data, allowed = map[string][]byte{keyData: []byte(step.key)}, step.allowed
		if _, err := k.get(t.Context()); err == nil || !strings.Contains(err.Error(), step.says) {
			t.Errorf("%s: %v, want an error with %q", step.name, err, step.says)
		}
	}
	data[keyData] = []byte(strings.Repeat("k", keySize))
	if key, err := k.get(t.Context()); err != nil || len(key) != keySize {
		t.Errorf("a good key: %v", err)
	}
}
