// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

var (
	testNow   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	testLater = testNow.Add(time.Hour)
)

// summary is what people see of a status first.
func summary(s v1alpha1.HSMSecretStatus) string {
	parts := []string{string(s.SyncStatus)}
	for _, conditionType := range []string{v1alpha1.HSMSecretReady, v1alpha1.HSMSecretSynced, v1alpha1.HSMSecretConflict} {
		condition := meta.FindStatusCondition(s.Conditions, conditionType)
		if condition == nil {
			parts = append(parts, "none")
			continue
		}
		parts = append(parts, string(condition.Status)+"/"+condition.Reason)
	}
	return strings.Join(parts, " ")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	projected := func(p *pass) { p.done = []decision{{action: project, reason: reasonSourceChanged}} }
	rests := func(reason string) func(*pass) {
		return func(p *pass) { p.final = decision{action: nothing, reason: reason, message: "why"} }
	}
	fails := func(err error) func(*pass) { return func(p *pass) { p.err = err } }
	noSecret := func(p *pass) { p.secret, p.facts.secret = nil, nil }
	read := func(p *pass) { p.secretRead = true }
	var synced v1alpha1.HSMSecretStatus
	{
		p := testPass()
		projected(p)
		synced = p.status(testNow)
	}
	var deleted v1alpha1.HSMSecretStatus
	{
		p := testPass()
		rests(reasonSecretDeleted)(p)
		noSecret(p)
		deleted = p.status(testNow)
	}
	conflict := func() v1alpha1.HSMSecretStatus {
		p := testPass()
		projected(p)
		p.lostEdit = "an edit"
		return p.status(testNow)
	}()

	for _, c := range []struct {
		name     string
		previous v1alpha1.HSMSecretStatus
		changes  []func(*pass)
		want     string
		ref      bool
		lastSync time.Time
		lastErr  string
	}{
		{"first", v1alpha1.HSMSecretStatus{}, []func(*pass){projected}, "InSync True/Projected True/InSync False/NoConflict", true, testLater, ""},
		{"nothing new", synced, nil, "InSync True/Projected True/InSync False/NoConflict", true, testNow, ""},
		{"lost, and found in the Secret", v1alpha1.HSMSecretStatus{}, nil, "InSync True/Projected True/InSync False/NoConflict", true, testNow.Add(-time.Minute), ""},
		{"moved before, and not told", withSum(synced, "B"), nil, "InSync True/Projected True/InSync False/NoConflict", true, testLater, ""},
		{"left alone", synced, []func(*pass){rests(reasonAutoSyncOff)}, "OutOfSync True/Projected False/AutoSyncOff False/NoConflict", true, testNow, ""},
		{"deleted", synced, []func(*pass){rests(reasonSecretDeleted), noSecret}, "OutOfSync False/SecretDeleted False/SecretDeleted False/NoConflict", false, testNow, ""},
		{"waits for finalizers", synced, []func(*pass){rests(reasonSecretTerminating)}, "OutOfSync False/SecretTerminating False/SecretTerminating False/NoConflict", true, testNow, "why"},
		{"a reason without a case of its own", synced, []func(*pass){rests("New")}, "OutOfSync False/New False/New False/NoConflict", true, testNow, "why"},
		{"deleted again and again", synced, []func(*pass){fails(errEditedTooOften), noSecret, read}, "Error False/EditedTooOften False/EditedTooOften False/NoConflict", false, testNow, errEditedTooOften.Error()},
		{"edited again and again", synced, []func(*pass){fails(errEditedTooOften), read}, "Error True/Projected False/EditedTooOften False/NoConflict", true, testNow, errEditedTooOften.Error()},
		{"deleted, and cannot be made", synced, []func(*pass){fails(errors.New("quota")), noSecret, read}, "Error False/SyncFailed False/SyncFailed False/NoConflict", false, testNow, "quota"},
		{"deleted, left so, and away", deleted, []func(*pass){fails(apierrors.NewServiceUnavailable("no token"))}, "Error False/SecretDeleted False/Unavailable False/NoConflict", false, time.Time{}, "no token"},
		{"exists", v1alpha1.HSMSecretStatus{}, []func(*pass){rests(reasonSecretExists)}, "Error False/SecretExists False/SecretExists True/SecretExists", false, time.Time{}, "why"},
		{"taken", synced, []func(*pass){rests(reasonSecretTaken)}, "Error False/SecretTaken False/SecretTaken True/SecretTaken", false, testNow, "why"},
		{"both changed", synced, []func(*pass){projected, func(p *pass) { p.lostEdit = "an edit" }}, "InSync True/Projected True/InSync True/BothChanged", true, testLater, ""},
		{"conflict is told for a while", conflict, nil, "InSync True/Projected True/InSync True/BothChanged", true, testNow, ""},
		{"conflict is over with the next sync", conflict, []func(*pass){projected}, "InSync True/Projected True/InSync False/NoConflict", true, testLater, ""},
		{"fails", synced, []func(*pass){fails(errors.New("full"))}, "Error True/Projected False/SyncFailed False/NoConflict", true, testNow, "full"},
		{"fails at first", v1alpha1.HSMSecretStatus{}, []func(*pass){fails(errors.New("full"))}, "Error False/SyncFailed False/SyncFailed False/NoConflict", false, time.Time{}, "full"},
		{"away", synced, []func(*pass){fails(apierrors.NewServiceUnavailable("no token"))}, "Error True/Projected False/Unavailable False/NoConflict", true, testNow, "no token"},
	} {
		p := testPass()
		for _, change := range c.changes {
			change(p)
		}
		before := c.previous.DeepCopy()
		p.previous = c.previous
		got := p.status(testLater)
		if summary(got) != c.want {
			t.Errorf("%s: got %s, want %s", c.name, summary(got), c.want)
		}
		if (got.SecretRef != nil) != c.ref {
			t.Errorf("%s: secretRef %v", c.name, got.SecretRef)
		}
		if lastSync := got.LastSyncTime; lastSync == nil && !c.lastSync.IsZero() || lastSync != nil && !lastSync.Time.Equal(c.lastSync) {
			t.Errorf("%s: lastSyncTime %v, want %v", c.name, got.LastSyncTime, c.lastSync)
		}
		if got.LastError != c.lastErr {
			t.Errorf("%s: lastError %q, want %q", c.name, got.LastError, c.lastErr)
		}
		if got.ObservedGeneration != 7 || got.DataVersion != "" || got.PrimaryDevice != "" {
			t.Errorf("%s: %+v", c.name, got)
		}
		if errs := metav1validation.ValidateConditions(got.Conditions, field.NewPath("conditions")); len(errs) > 0 {
			t.Errorf("%s: %v", c.name, errs)
		}
		if !isSame(*before, c.previous) {
			t.Errorf("%s: the previous status was changed", c.name)
		}
		// What is written once is not written twice.
		p.done, p.lostEdit, p.previous = nil, "", got
		if again := p.status(testLater.Add(time.Hour)); !isSame(again, got) {
			t.Errorf("%s: synced again, the status is another", c.name)
		}
	}
}

func withSum(s v1alpha1.HSMSecretStatus, sum string) v1alpha1.HSMSecretStatus {
	s.HSMChecksum = sum
	return s
}

func testPass() *pass {
	h := testHSMSecret()
	h.Generation = 7
	secret := projectedSecret(h)
	secret.UID = "s1"
	secret.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "kubectl", Operation: metav1.ManagedFieldsOperationApply, Time: new(metav1.NewTime(testNow))},
		{Manager: identity.FieldManager, Operation: metav1.ManagedFieldsOperationApply, Time: new(metav1.NewTime(testNow.Add(-time.Minute)))},
	}
	return &pass{
		pair:  pair{h, secret},
		facts: facts{hsm: hsmFacts{dataVersion: dataVersion{"1", "A"}}, secret: &secretFacts{checksum: "A"}},
		final: decision{action: nothing, reason: reasonInSync, message: "the same"},
	}
}

// TestWasProjected: a Secret that was deleted again and again was made once, or every
// answer would count as the first one and none be slowed down.
func TestWasProjected(t *testing.T) {
	t.Parallel()
	synced := testPass()
	synced.done = []decision{{action: project, reason: reasonSourceChanged}}
	gone := testPass()
	gone.previous, gone.err, gone.secretRead = synced.status(testNow), errEditedTooOften, true
	gone.secret, gone.facts.secret = nil, nil
	deleted := testPass()
	deleted.final = decision{action: nothing, reason: reasonSecretDeleted}
	deleted.secret, deleted.facts.secret = nil, nil
	failedSince := testPass()
	failedSince.previous, failedSince.err = deleted.status(testNow), errors.New("quota")
	failedSince.secret, failedSince.facts.secret = nil, nil
	failedAgain := *failedSince
	failedAgain.previous = failedSince.status(testNow)
	never := testPass()
	never.err, never.secretRead = errors.New("quota"), true
	never.secret, never.facts.secret = nil, nil
	for name, c := range map[string]struct {
		of   *pass
		want bool
	}{
		"in sync": {synced, true}, "deleted, and its sync fails": {gone, true}, "deleted, and left so": {deleted, true},
		"left so, and a later sync fails": {failedSince, true}, "and one more": {&failedAgain, true},
		"never made": {never, false},
	} {
		if got := wasProjected(c.of.status(testLater)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLostEdit(t *testing.T) {
	t.Parallel()
	entry := func(manager, fields string, at time.Time) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, FieldsV1: metav1.NewFieldsV1(fields), Time: new(metav1.NewTime(at))}
	}
	secret := &corev1.Secret{Data: map[string][]byte{"password": []byte("canary")}}
	secret.ManagedFields = []metav1.ManagedFieldsEntry{
		entry(identity.FieldManager, `{"f:data":{}}`, testLater),
		entry("old", `{"f:data":{"f:password":{}}}`, testNow),
		entry("kubectl-edit", `{"f:data":{"f:password":{}}}`, testNow.Add(time.Minute)),
		entry("labeller", `{"f:metadata":{"f:labels":{"f:data":{}}}}`, testLater),
		entry("broken", `{`, testLater),
		{Manager: "none"},
	}
	got := lostEdit(pair{secret: secret}, testLater)
	for _, part := range []string{"kubectl-edit", "2026-01-02T03:05:05Z", "2026-01-02T04:04:05Z"} {
		if !strings.Contains(got, part) {
			t.Errorf("%q is missing in %q", part, got)
		}
	}
	if strings.Contains(got, "canary") {
		t.Errorf("it shows a value: %q", got)
	}
	if got := lostEdit(pair{secret: &corev1.Secret{}}, testLater); !strings.Contains(got, "by someone") {
		t.Errorf("without managedFields: %q", got)
	}
}
