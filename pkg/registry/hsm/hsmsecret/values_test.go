// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/storage/records"
)

// valueRights are those of alice in namespace app: to the values of all names,
// as RBAC gives them without resourceNames, or of some.
type valueRights struct {
	all   bool
	names []string
	err   error // Of asking.
}

var errCannotAsk = errors.New("cannot ask")

func (v valueRights) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if v.err != nil {
		return authorizer.DecisionNoOpinion, "", v.err
	}
	if a.GetUser().GetName() == "alice" && a.GetVerb() == "get" && a.GetAPIGroup() == "hsm.j5t.io" && a.GetAPIVersion() == "v1alpha1" &&
		a.GetResource() == "hsmsecrets" && a.GetSubresource() == "data" && a.GetNamespace() == "app" && a.IsResourceRequest() &&
		(v.all || slices.Contains(v.names, a.GetName())) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "no rule", nil
}

// server is the storage of hsmsecrets over a backend, to alice.
type server struct {
	*REST
	status  *StatusREST
	backend *backend
}

// newServer has the HSMSecrets db and other, made by someone with all rights.
func newServer(t *testing.T, rights valueRights, changes ...func(*v1alpha1.HSMSecret)) server {
	t.Helper()
	s := server{backend: newBackend()}
	secrets, _ := s.as(t, valueRights{all: true})
	for _, name := range []string{"db", "other"} {
		secret := sent(t, func(secret *v1alpha1.HSMSecret) {
			secret.Name = name
			for _, change := range changes {
				change(secret)
			}
		})
		if _, err := secrets.Create(request(""), secret, nil, &metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.backend.reset()
	s.REST, s.status = s.as(t, rights)
	return s
}

func (s server) as(t *testing.T, rights valueRights) (*REST, *StatusREST) {
	t.Helper()
	secrets, status, err := NewStorage(newScheme(), s.backend, authorizer.AuthorizerFunc(rights.authorize))
	if err != nil {
		t.Fatal(err)
	}
	return secrets, status
}

// truth reads an HSMSecret with all rights.
func (s server) truth(t *testing.T, name string) *hsm.HSMSecret {
	t.Helper()
	secrets, _ := s.as(t, valueRights{all: true})
	obj, err := secrets.Get(request(""), name, &metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*hsm.HSMSecret)
}

// objects are the HSMSecrets in an answer.
func objects(t *testing.T, answer runtime.Object) []*hsm.HSMSecret {
	t.Helper()
	switch answer := answer.(type) {
	case *hsm.HSMSecret:
		return []*hsm.HSMSecret{answer}
	case *hsm.HSMSecretList:
		var all []*hsm.HSMSecret
		for i := range answer.Items {
			all = append(all, &answer.Items[i])
		}
		return all
	}
	t.Fatalf("the answer is a %T", answer)
	return nil
}

// wantValues checks that an answer has HSMSecrets, their keys, and their values or
// none of them.
func wantValues(t *testing.T, answer runtime.Object, shown bool) {
	t.Helper()
	all := objects(t, answer)
	if len(all) == 0 {
		t.Fatal("the answer has no HSMSecret")
	}
	want := ""
	if shown {
		want = canary
	}
	for _, secret := range all {
		if value, ok := secret.Data["password"]; !ok || len(secret.Data) != 1 || string(value) != want {
			t.Errorf("data of %s is %q, want the key password with the value %q", secret.Name, secret.Data, want)
		}
	}
}

func byName(name string) *metainternalversion.ListOptions {
	return &metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name)}
}

// first returns the object of the first event of a watch, a change of db.
func first(ctx context.Context, t *testing.T, s server, options *metainternalversion.ListOptions) (runtime.Object, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options.ResourceVersion = "15"
	w, err := s.Watch(ctx, options)
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	s.backend.mu.Lock()
	changed := s.backend.read(s.backend.records["/hsmsecrets.hsm.j5t.io/app/db"], false)
	s.backend.mu.Unlock()
	changed.Revision = 20
	s.backend.events <- &agentv1.Event{Type: agentv1.Event_TYPE_PUT, Record: changed, Revision: 20}
	event := <-w.ResultChan()
	if event.Type != watch.Added {
		t.Fatalf("the event is %s of %v", event.Type, event.Object)
	}
	return event.Object, nil
}

// The ways to read, and the name that RBAC compares with resourceNames.
var reads = []struct {
	name, resourceName string
	read               func(context.Context, *testing.T, server) (runtime.Object, error)
}{
	{"get", "db", func(ctx context.Context, _ *testing.T, s server) (runtime.Object, error) {
		return s.Get(ctx, "db", &metav1.GetOptions{})
	}},
	{"get status", "db", func(ctx context.Context, _ *testing.T, s server) (runtime.Object, error) {
		return s.status.Get(ctx, "db", &metav1.GetOptions{})
	}},
	{"list", "", func(ctx context.Context, _ *testing.T, s server) (runtime.Object, error) {
		return s.List(ctx, &metainternalversion.ListOptions{})
	}},
	{"list without options", "", func(ctx context.Context, _ *testing.T, s server) (runtime.Object, error) {
		return s.List(ctx, nil)
	}},
	{"list of one", "db", func(ctx context.Context, _ *testing.T, s server) (runtime.Object, error) {
		return s.List(ctx, byName("db"))
	}},
	{"list of all but one", "", func(ctx context.Context, _ *testing.T, s server) (runtime.Object, error) {
		return s.List(ctx, &metainternalversion.ListOptions{FieldSelector: fields.OneTermNotEqualSelector("metadata.name", "db")})
	}},
	{"watch", "", func(ctx context.Context, t *testing.T, s server) (runtime.Object, error) {
		return first(ctx, t, s, &metainternalversion.ListOptions{})
	}},
	{"watch of one", "db", func(ctx context.Context, t *testing.T, s server) (runtime.Object, error) {
		return first(ctx, t, s, byName("db"))
	}},
}

// TestReads shows values to who has the right to them. For others it asks the
// token for none.
func TestReads(t *testing.T) {
	t.Parallel()
	for _, test := range reads {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for name, rights := range map[string]struct {
				valueRights
				shown bool
			}{
				"all":       {valueRights{all: true}, true},
				"this name": {valueRights{names: []string{"db"}}, test.resourceName == "db"},
				"another":   {valueRights{names: []string{"other"}}, false},
				"none":      {valueRights{}, false},
			} {
				s := newServer(t, rights.valueRights)
				var got warnings
				answer, err := test.read(warning.WithWarningRecorder(request(""), &got), t, s)
				if err != nil {
					t.Fatalf("with the right to %s: %v", name, err)
				}
				wantValues(t, answer, rights.shown)
				if asked := s.backend.valueReads > 0; asked != rights.shown {
					t.Errorf("with the right to %s, values were asked for: %t", name, asked)
				}
				if warned := len(got) == 1 && strings.Contains(got[0], "hsmsecrets/data"); warned == rights.shown {
					t.Errorf("with the right to %s, the warnings are %q", name, got)
				}
			}
		})
		t.Run(test.name+" without a decision", func(t *testing.T) {
			t.Parallel()
			s := newServer(t, valueRights{err: errCannotAsk})
			if answer, err := test.read(request(""), t, s); !apierrors.IsInternalError(err) || answer != nil {
				t.Errorf("answer %v, error %v; want an internal error alone", answer, err)
			}
			if s.backend.valueReads > 0 {
				t.Error("values were asked for")
			}
		})
		t.Run(test.name+" of metadata", func(t *testing.T) {
			t.Parallel()
			// Nobody is asked where no value is shown anyway.
			s := newServer(t, valueRights{err: errCannotAsk})
			answer, err := test.read(records.WithoutData(request("")), t, s)
			if err != nil {
				t.Fatal(err)
			}
			wantValues(t, answer, false)
		})
	}
}

// updateOf makes a request of an object that is there, as the handlers do for a
// patch: from the object as they are given it.
func updateOf(change func(*hsm.HSMSecret)) rest.UpdatedObjectInfo {
	return rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		secret := old.DeepCopyObject().(*hsm.HSMSecret)
		change(secret)
		return secret, nil
	})
}

func label(secret *hsm.HSMSecret) { secret.Labels = map[string]string{"team": "blue"} }

// The ways to write, each of which answers with objects.
var writes = []struct {
	name         string
	resourceName string
	write        func(*testing.T, server) (runtime.Object, error)
}{
	{"create", "new", func(t *testing.T, s server) (runtime.Object, error) {
		return s.Create(request(""), sent(t, func(secret *v1alpha1.HSMSecret) { secret.Name = "new" }), nil, &metav1.CreateOptions{})
	}},
	{"create with generateName", "", func(t *testing.T, s server) (runtime.Object, error) {
		return s.Create(request(""), sent(t, func(secret *v1alpha1.HSMSecret) { secret.Name, secret.GenerateName = "", "new-" }), nil, &metav1.CreateOptions{})
	}},
	{"create by apply", "new", func(t *testing.T, s server) (runtime.Object, error) {
		secret := sent(t, func(secret *v1alpha1.HSMSecret) { secret.Name = "new" })
		obj, _, err := s.Update(request(""), "new", rest.DefaultUpdatedObjectInfo(secret), nil, nil, true, &metav1.UpdateOptions{})
		return obj, err
	}},
	{"update", "db", func(_ *testing.T, s server) (runtime.Object, error) {
		obj, _, err := s.Update(request(""), "db", updateOf(label), nil, nil, false, &metav1.UpdateOptions{})
		return obj, err
	}},
	{"update in a dry run", "db", func(_ *testing.T, s server) (runtime.Object, error) {
		obj, _, err := s.Update(request(""), "db", updateOf(label), nil, nil, false, &metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		return obj, err
	}},
	{"update of nothing", "db", func(_ *testing.T, s server) (runtime.Object, error) {
		obj, _, err := s.Update(request(""), "db", updateOf(func(*hsm.HSMSecret) {}), nil, nil, false, &metav1.UpdateOptions{})
		return obj, err
	}},
	{"update of status", "db", func(_ *testing.T, s server) (runtime.Object, error) {
		obj, _, err := s.status.Update(request("status"), "db", updateOf(func(secret *hsm.HSMSecret) { secret.Status.LastError = "none" }),
			nil, nil, false, &metav1.UpdateOptions{})
		return obj, err
	}},
	{"delete with a finalizer", "db", func(t *testing.T, s server) (runtime.Object, error) {
		withFinalizer(t, s)
		obj, _, err := s.Delete(request(""), "db", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
		return obj, err
	}},
	{"removal of the last finalizer", "db", func(t *testing.T, s server) (runtime.Object, error) {
		withFinalizer(t, s)
		if _, _, err := s.Delete(request(""), "db", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
			return nil, err
		}
		obj, _, err := s.Update(request(""), "db", updateOf(func(secret *hsm.HSMSecret) { secret.Finalizers = nil }), nil, nil, false, &metav1.UpdateOptions{})
		return obj, err
	}},
	{"deletecollection", "", func(_ *testing.T, s server) (runtime.Object, error) {
		return s.DeleteCollection(request(""), rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}, nil)
	}},
	{"deletecollection of one", "db", func(_ *testing.T, s server) (runtime.Object, error) {
		return s.DeleteCollection(request(""), rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}, byName("db"))
	}},
}

// withFinalizer is done by someone with all rights.
func withFinalizer(t *testing.T, s server) {
	t.Helper()
	secrets, _ := s.as(t, valueRights{all: true})
	if _, _, err := secrets.Update(request(""), "db", updateOf(func(secret *hsm.HSMSecret) { secret.Finalizers = []string{"example.com/a"} }),
		nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.backend.reset()
}

// TestAnswersOfWrites shows values in them to who has the right to them only.
func TestAnswersOfWrites(t *testing.T) {
	t.Parallel()
	for _, test := range writes {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for name, rights := range map[string]struct {
				valueRights
				shown bool
			}{
				"all":       {valueRights{all: true}, true},
				"this name": {valueRights{names: []string{"db", "new"}}, test.resourceName != ""},
				"another":   {valueRights{names: []string{"other"}}, false},
				"none":      {valueRights{}, false},
			} {
				s := newServer(t, rights.valueRights)
				answer, err := test.write(t, s)
				if err != nil {
					t.Fatalf("with the right to %s: %v", name, err)
				}
				wantValues(t, answer, rights.shown)
				for key, record := range s.backend.records {
					if !bytes.Contains(record.GetData(), []byte(canary)) {
						t.Errorf("with the right to %s, the stored values of %s are lost", name, key)
					}
				}
			}
		})
		t.Run(test.name+" without a decision", func(t *testing.T) {
			t.Parallel()
			s := newServer(t, valueRights{err: errCannotAsk})
			answer, err := test.write(t, s)
			if !apierrors.IsInternalError(err) || answer != nil {
				t.Errorf("answer %v, error %v; want an internal error alone", answer, err)
			}
			if len(s.backend.commits) > 0 {
				t.Errorf("something was written: %v", s.backend.commits)
			}
		})
	}
}

// A deleted object without finalizers is answered by its name alone.
func TestDelete(t *testing.T) {
	t.Parallel()
	for name, rights := range map[string]valueRights{"all": {all: true}, "none": {}} {
		s := newServer(t, rights)
		answer, deleted, err := s.Delete(request(""), "db", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
		if status, ok := answer.(*metav1.Status); err != nil || !deleted || !ok || status.Details.Name != "db" {
			t.Errorf("with the right to %s: answer %v, deleted %t, error %v", name, answer, deleted, err)
		}
	}
}
