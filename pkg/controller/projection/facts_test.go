// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// anotherHSMSecret is one beside db: its metadata, and the Secret that it wants.
type anotherHSMSecret struct {
	name   string
	uid    types.UID
	age    time.Duration // More than that of db.
	wanted string
}

// reconcilerBeside answers for the cluster of db and other.
func reconcilerBeside(db *v1alpha1.HSMSecret, other *anotherHSMSecret) *reconciler {
	return &reconciler{
		cache: interceptor.NewClient(nil, interceptor.Funcs{
			Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
				if other == nil || key.Name != other.name {
					return apierrors.NewNotFound(v1alpha1.Resource("hsmsecrets"), key.Name)
				}
				object.SetName(other.name)
				object.SetUID(other.uid)
				object.SetCreationTimestamp(metav1.NewTime(db.CreationTimestamp.Add(-other.age)))
				return nil
			},
		}),
		client: interceptor.NewClient(nil, interceptor.Funcs{
			List: func(_ context.Context, _ client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
				o := &client.ListOptions{}
				o.ApplyOptions(options)
				name, _ := o.FieldSelector.RequiresExactMatch("metadata.name")
				secretName, _ := o.FieldSelector.RequiresExactMatch("spec.secretName")
				if other != nil && name == other.name && secretName == other.wanted {
					list.(*metav1.PartialObjectMetadataList).Items = make([]metav1.PartialObjectMetadata, 1)
				}
				return nil
			},
		}),
	}
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	strip := func(p *pass) { p.secret.Labels, p.secret.Annotations, p.secret.OwnerReferences = nil, nil, nil }
	told := func(uid types.UID) func(*pass) {
		return func(p *pass) {
			p.previous.SecretRef = &v1alpha1.SecretReference{Name: "db", Namespace: "app", UID: uid}
		}
	}
	of := func(name string, uid types.UID) func(*pass) {
		return func(p *pass) {
			p.secret.OwnerReferences = nil
			p.secret.Annotations[SourceNameAnnotation], p.secret.Annotations[SourceUIDAnnotation] = name, string(uid)
		}
	}
	adoptAnnotation := func(p *pass) { p.secret.Annotations = map[string]string{AdoptAnnotation: "true"} }
	for name, c := range map[string]struct {
		changes  []func(*pass)
		sameData bool
		other    *anotherHSMSecret
		want     ownership
	}{
		"as made":            {want: self},
		"without owner":      {changes: []func(*pass){func(p *pass) { p.secret.OwnerReferences = nil }}, want: self},
		"of nobody":          {changes: []func(*pass){strip}, want: foreign},
		"of nobody, adopted": {changes: []func(*pass){strip, adoptAnnotation}, want: adoptable},

		"replaced as a whole":                    {changes: []func(*pass){strip, told("s1")}, want: self},
		"made again by others":                   {changes: []func(*pass){strip, told("s0")}, want: foreign},
		"of a status without uid":                {changes: []func(*pass){strip, told("")}, want: foreign},
		"taken over by another since the status": {changes: []func(*pass){of("other", "u2"), told("s1")}, other: &anotherHSMSecret{name: "other", uid: "u2", wanted: "db"}, want: another},
		"of an earlier HSMSecret of this name, owner": {changes: []func(*pass){func(p *pass) {
			of("db", "u0")(p)
			p.secret.OwnerReferences = projectedSecret(p.hsm).OwnerReferences
			p.secret.OwnerReferences[0].UID = "u0"
		}}, want: inherited},
		"retained by an earlier one, same data":         {changes: []func(*pass){of("db", "u0")}, sameData: true, want: inherited},
		"retained by an earlier one, other data":        {changes: []func(*pass){of("db", "u0")}, want: foreign},
		"retained by one of another name, same data":    {changes: []func(*pass){of("gone", "u0")}, sameData: true, want: foreign},
		"of another that is gone":                       {changes: []func(*pass){of("other", "u0")}, other: &anotherHSMSecret{name: "other", uid: "u2", wanted: "db"}, want: foreign},
		"of one of the same second":                     {changes: []func(*pass){of("other", "u2")}, other: &anotherHSMSecret{name: "other", uid: "u2", wanted: "db"}, want: another},
		"of an older one":                               {changes: []func(*pass){of("other", "u2")}, other: &anotherHSMSecret{name: "other", uid: "u2", age: time.Hour, wanted: "db"}, want: another},
		"of a younger one":                              {changes: []func(*pass){of("other", "u2")}, other: &anotherHSMSecret{name: "other", uid: "u2", age: -time.Hour, wanted: "db"}, want: inherited},
		"of one of the same second that has moved on":   {changes: []func(*pass){of("other", "u2")}, other: &anotherHSMSecret{name: "other", uid: "u2", wanted: "next"}, want: inherited},
		"of an older one that has moved on":             {changes: []func(*pass){of("other", "u2")}, other: &anotherHSMSecret{name: "other", uid: "u2", age: time.Hour, wanted: "next"}, want: inherited},
		"of a younger one that has moved on, same data": {changes: []func(*pass){of("other", "u2")}, sameData: true, other: &anotherHSMSecret{name: "other", uid: "u2", age: -time.Hour, wanted: "next"}, want: inherited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testPass()
			for _, change := range c.changes {
				change(p)
			}
			got, by, err := reconcilerBeside(p.hsm, c.other).ownershipOf(t.Context(), p, c.sameData)
			if err != nil || got != c.want {
				t.Errorf("it is %s, %v; want %s", got, err, c.want)
			}
			if got == another && by != c.other.name || got != another && by != "" {
				t.Errorf("it belongs to %q", by)
			}
		})
	}
}

// TestFactsOfReplacedSecret: the status says what a Secret was in sync with that has lost
// its annotations, so an edit that came with the loss is an edit, and nothing else.
func TestFactsOfReplacedSecret(t *testing.T) {
	t.Parallel()
	key := []byte("a key")
	for name, c := range map[string]struct {
		secret, token string // Their values; "one" was in sync.
		outOfSync     bool   // By the status.
		want          action
		reason        string
	}{
		"edited":                            {"two", "one", false, push, reasonSecretEdited},
		"not edited":                        {"one", "one", false, note, reasonRecorded},
		"not edited, token changed":         {"one", "two", false, project, reasonSourceChanged},
		"edited, token changed":             {"two", "three", false, project, reasonBothChanged},
		"edited, and was not in sync":       {"two", "one", true, project, reasonBothChanged},
		"edited and token changed the same": {"two", "two", false, note, reasonRecorded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testPass()
			sum := func(value string) string {
				return checksum(key, p.hsm.UID, map[string][]byte{"password": []byte(value)})
			}
			p.state = &syncState{}
			p.previous = v1alpha1.HSMSecretStatus{
				HSMChecksum: sum("one"), SecretChecksum: sum("one"),
				SecretRef: &v1alpha1.SecretReference{Name: "db", UID: "s1"},
			}
			if c.outOfSync {
				p.previous.SecretChecksum = sum("another")
			}
			p.hsm.Data["password"], p.hsm.Status.DataVersion = []byte(c.token), "7"
			p.secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "db", UID: "s1"}, Type: corev1.SecretTypeOpaque,
				Data: map[string][]byte{"password": []byte(c.secret)}}
			r := reconcilerBeside(p.hsm, nil)
			r.keys = &keys{key: key}
			f, err := r.factsOf(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			f.hsm.autoSync, f.hsm.bidirectional = true, true
			if d := decide(f); d.action != c.want || d.reason != c.reason {
				t.Errorf("the decision is %s, %s; want %s, %s", d.action, d.reason, c.want, c.reason)
			}
		})
	}
}
