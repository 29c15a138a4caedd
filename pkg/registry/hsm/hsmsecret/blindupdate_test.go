// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// TestBlindUpdate is of updates by a user without the right to values: what they
// are made from, and what may come of them.
func TestBlindUpdate(t *testing.T) {
	t.Parallel()
	isImmutable := func(secret *v1alpha1.HSMSecret) { secret.Immutable = new(true) }
	noData := func(secret *v1alpha1.HSMSecret) { secret.Data = nil }
	emptyValue := func(secret *v1alpha1.HSMSecret) { secret.Data = map[string][]byte{"password": {}} }
	for _, test := range []struct {
		name   string
		old    func(*v1alpha1.HSMSecret)
		change func(*hsm.HSMSecret)
		// wants the error; nil when the update succeeds with the values as they were.
		wants func(error) bool
		says  []string
		// writes reports whether the update reaches the store.
		writes bool
	}{
		{name: "nothing", change: func(*hsm.HSMSecret) {}},
		{name: "a label", change: label, writes: true},
		{name: "spec", change: func(s *hsm.HSMSecret) { s.Spec.SyncInterval = 60 }, writes: true},
		{name: "without resourceVersion", change: func(s *hsm.HSMSecret) { label(s); s.ResourceVersion = "" }, writes: true},
		{name: "a value of no bytes", change: func(s *hsm.HSMSecret) { s.Data["password"] = nil }},
		{name: "a label of an immutable one", old: isImmutable, change: label, writes: true},
		{name: "a label of one without data", old: noData, change: label, writes: true},
		{name: "empty data of one without data", old: noData, change: func(s *hsm.HSMSecret) { s.Data = map[string][]byte{} }},
		{name: "a label of one with an empty value", old: emptyValue, change: label, writes: true},

		{name: "a value", change: func(s *hsm.HSMSecret) { s.Data["password"] = []byte("new") }, wants: apierrors.IsForbidden, says: []string{"data[password]", "changed"}},
		// The same answer as for any other value: it cannot be guessed.
		{name: "the value that it has", change: func(s *hsm.HSMSecret) { s.Data["password"] = []byte(canary) }, wants: apierrors.IsForbidden, says: []string{"data[password]", "changed"}},
		{name: "a new key", change: func(s *hsm.HSMSecret) { s.Data["user"] = []byte("a") }, wants: apierrors.IsForbidden, says: []string{"data[user]", "added"}},
		{name: "a new key of no bytes", change: func(s *hsm.HSMSecret) { s.Data["user"] = nil }, wants: apierrors.IsForbidden, says: []string{"data[user]", "added"}},
		{name: "no key", change: func(s *hsm.HSMSecret) { delete(s.Data, "password") }, wants: apierrors.IsForbidden, says: []string{"data[password]", "dropped"}},
		{name: "no data", change: func(s *hsm.HSMSecret) { s.Data = nil }, wants: apierrors.IsForbidden, says: []string{"data[password]", "dropped"}},
		{name: "data of one without data", old: noData, change: func(s *hsm.HSMSecret) { s.Data = map[string][]byte{"a": nil} }, wants: apierrors.IsForbidden, says: []string{"data[a]", "added"}},
		{name: "another name of a key", change: func(s *hsm.HSMSecret) { s.Data = map[string][]byte{"passphrase": nil} }, wants: apierrors.IsForbidden, says: []string{"data[passphrase]"}},
		{name: "a value of an immutable one", old: isImmutable, change: func(s *hsm.HSMSecret) { s.Data["password"] = []byte("new") }, wants: apierrors.IsForbidden, says: []string{"data[password]"}},
		{name: "immutable back", old: isImmutable, change: func(s *hsm.HSMSecret) { s.Immutable = nil }, wants: apierrors.IsInvalid},

		{name: "an old resourceVersion", change: func(s *hsm.HSMSecret) { label(s); s.ResourceVersion = "3" }, wants: apierrors.IsConflict},
		// The keys may be those of then.
		{name: "an old resourceVersion, other keys", change: func(s *hsm.HSMSecret) { s.Data = nil; s.ResourceVersion = "3" }, wants: apierrors.IsConflict},
	} {
		for _, options := range []*metav1.UpdateOptions{{}, {DryRun: []string{metav1.DryRunAll}}} {
			t.Run(strings.Join(append(options.DryRun, test.name), " "), func(t *testing.T) {
				t.Parallel()
				change := func(*v1alpha1.HSMSecret) {}
				if test.old != nil {
					change = test.old
				}
				s := newServer(t, valueRights{}, change)
				before := s.truth(t, "db")
				info := updateOf(func(secret *hsm.HSMSecret) {
					for key, value := range secret.Data {
						if len(value) > 0 {
							t.Errorf("the update is made from the value %q of %s", value, key)
						}
					}
					test.change(secret)
				})
				answer, _, err := s.Update(request(""), "db", info, nil, nil, false, options)
				switch {
				case test.wants == nil && err != nil:
					t.Fatal(err)
				case test.wants == nil:
					for key, value := range answer.(*hsm.HSMSecret).Data {
						if len(value) > 0 {
							t.Errorf("the answer has the value %q of %s", value, key)
						}
					}
				case !test.wants(err):
					t.Fatalf("error is %v", err)
				}
				if apierrors.IsForbidden(err) {
					for _, part := range append(test.says, "verb get", "hsmsecrets/data", `namespace "app"`, "empty value") {
						if !strings.Contains(err.Error(), part) {
							t.Errorf("the error does not say %s: %v", part, err)
						}
					}
					if strings.Contains(err.Error(), canary) {
						t.Errorf("the error has a value: %v", err)
					}
				}
				wantWrite := test.writes && len(options.DryRun) == 0
				if wrote := len(s.backend.commits) > 0; wrote != wantWrite {
					t.Errorf("something was written: %t, want %t", wrote, wantWrite)
				}
				after := s.truth(t, "db")
				if after.Status.DataVersion != before.Status.DataVersion || string(after.Data["password"]) != string(before.Data["password"]) || len(after.Data) != len(before.Data) {
					t.Errorf("data was %q of version %s and is %q of version %s", before.Data, before.Status.DataVersion, after.Data, after.Status.DataVersion)
				}
			})
		}
	}
}

// What is sent as a whole is judged as a patch is.
func TestBlindReplace(t *testing.T) {
	t.Parallel()
	s := newServer(t, valueRights{})
	asShown := sent(t, func(secret *v1alpha1.HSMSecret) {
		secret.Labels = map[string]string{"team": "blue"}
		secret.Data = map[string][]byte{"password": {}}
		secret.StringData = map[string]string{"password": ""}
	})
	if _, _, err := s.Update(request(""), "db", rest.DefaultUpdatedObjectInfo(asShown), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	withStringData := sent(t, func(secret *v1alpha1.HSMSecret) {
		secret.Data = nil
		secret.StringData = map[string]string{"password": "new"}
	})
	if _, _, err := s.Update(request(""), "db", rest.DefaultUpdatedObjectInfo(withStringData), nil, nil, false, &metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("error with stringData is %v, want 403", err)
	}
	if secret := s.truth(t, "db"); string(secret.Data["password"]) != canary || secret.Labels["team"] != "blue" {
		t.Errorf("password is %q, labels are %v", secret.Data["password"], secret.Labels)
	}
}

// A write of the status takes no data from the request, as for any resource, but
// a patch of it must not be computed on values either.
func TestBlindStatus(t *testing.T) {
	t.Parallel()
	s := newServer(t, valueRights{})
	info := updateOf(func(secret *hsm.HSMSecret) {
		if len(secret.Data["password"]) > 0 {
			t.Error("the update is made from a value")
		}
		secret.Data = map[string][]byte{"password": []byte("new")}
		secret.Status.LastError = "none"
	})
	if _, _, err := s.status.Update(request("status"), "db", info, nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if secret := s.truth(t, "db"); string(secret.Data["password"]) != canary || secret.Status.LastError != "none" {
		t.Errorf("password is %q, lastError is %q", secret.Data["password"], secret.Status.LastError)
	}
}

// Validating admission judges what is stored, whoever asks for it: a policy on
// values holds for a write that leaves them alone.
func TestBlindUpdateIsValidatedWithValues(t *testing.T) {
	t.Parallel()
	s := newServer(t, valueRights{})
	validate := func(_ context.Context, obj, old runtime.Object) error {
		for _, obj := range []runtime.Object{obj, old} {
			if value := obj.(*hsm.HSMSecret).Data["password"]; string(value) != canary {
				t.Errorf("admission sees the value %q", value)
			}
		}
		return nil
	}
	if _, _, err := s.Update(request(""), "db", updateOf(label), nil, validate, false, &metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// warnings are those of one request.
type warnings []string

func (w *warnings) AddWarning(_, text string) { *w = append(*w, text) }

// TestWarningsOfBlindUpdate has none that tells of a value.
func TestWarningsOfBlindUpdate(t *testing.T) {
	t.Parallel()
	keyPair := func(secret *v1alpha1.HSMSecret) {
		secret.Spec.SecretType = corev1.SecretTypeTLS
		secret.Data = map[string][]byte{corev1.TLSCertKey: []byte("none"), corev1.TLSPrivateKeyKey: []byte("none")}
	}
	for name, test := range map[string]struct {
		rights valueRights
		want   bool
	}{"all": {valueRights{all: true}, true}, "none": {valueRights{}, false}} {
		s := newServer(t, test.rights, keyPair)
		var got warnings
		ctx := warning.WithWarningRecorder(request(""), &got)
		if _, _, err := s.Update(ctx, "db", updateOf(label), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if warned := slices.ContainsFunc(got, func(text string) bool { return strings.Contains(text, "tls: ") }); warned != test.want {
			t.Errorf("with the right to %s the warnings are %q", name, got)
		}
	}
}

// kubectl's server-side apply has the field manager write the configuration that
// was applied into the annotation, values and all, if it is there.
func TestLastAppliedIsBlankWhenTheServerWritesIt(t *testing.T) {
	t.Parallel()
	const lastApplied = `{"apiVersion":"hsm.j5t.io/v1alpha1","data":{"password":"Y2FuYXJ5LXZhbHVl"},"kind":"HSMSecret","metadata":{"name":"db"}}`
	s := newServer(t, valueRights{all: true})
	apply := updateOf(func(secret *hsm.HSMSecret) {
		secret.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: lastApplied}
	})
	for range 2 {
		if _, _, err := s.Update(request(""), "db", apply, nil, nil, false, &metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.backend.commits) != 1 {
		t.Fatalf("applying the same twice writes %d times", len(s.backend.commits))
	}
	meta := string(s.backend.commits[0].GetPut().GetMeta())
	if !strings.Contains(meta, "last-applied-configuration") || strings.Contains(meta, "Y2FuYXJ5LXZhbHVl") {
		t.Errorf("the store was given the annotation in %s", meta)
	}
}
