// SPDX-License-Identifier: Apache-2.0

package validation_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/apis/hsm/validation"
)

// canary is a value of data in the valid HSMSecret; no error may show it.
const canary = "canary-value"

var scheme = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return scheme
}()

// rulesTested holds the rules that a row has shown to refuse an object.
var rulesTested = struct {
	sync.Mutex
	names map[string]bool
}{names: map[string]bool{}}

func TestMain(m *testing.M) {
	code := m.Run()
	fmt.Printf("figure: validation-rules-tested %d\n", len(rulesTested.names))
	os.Exit(code)
}

// object is a pointer to a type of the API, with its generated copy function.
type object[T any] interface {
	runtime.Object
	*T
	DeepCopy() *T
}

// rule is one reason for which an object is refused: breaking it, and nothing
// else, in a valid object gives exactly these errors.
type rule[T any] struct {
	name string
	// old changes the valid object that is updated; without it, the object is
	// created.
	old    func(*T)
	object func(*T)
	// errs are "type of error: field".
	errs []string
}

// testRules runs a table against the functions of this package and the tags of
// v1alpha1, as a strategy does.
func testRules[T any, P object[T]](t *testing.T, subresource string, valid func() *T, rules []rule[T]) {
	t.Helper()
	if errs := validate(t, P(valid()), nil, subresource); len(errs) != 0 {
		t.Fatalf("the valid object is refused: %v", errs)
	}
	if errs := validate(t, P(valid()), P(valid()), subresource); len(errs) != 0 {
		t.Fatalf("updating the valid object with itself is refused: %v", errs)
	}
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			obj := valid()
			var old runtime.Object
			if rule.old != nil {
				oldObj := valid()
				rule.old(oldObj)
				old = P(oldObj)
				obj = P(oldObj).DeepCopy()
			}
			rule.object(obj)
			var got []string
			for _, err := range validate(t, P(obj), old, subresource) {
				got = append(got, fmt.Sprintf("%s: %s", err.Type, err.Field))
				if strings.Contains(err.Error(), canary) {
					t.Errorf("the error shows a value: %v", err)
				}
				if err.Field == "" || err.Error() == "" {
					t.Errorf("the error does not name its field: %v", err)
				}
			}
			if !slices.Equal(got, rule.errs) {
				t.Errorf("got errors %q, want %q", got, rule.errs)
				return
			}
			rulesTested.Lock()
			defer rulesTested.Unlock()
			id := fmt.Sprintf("%T%s %s", obj, subresource, rule.name)
			if rulesTested.names[id] {
				t.Errorf("rule %q is counted twice", id)
			}
			rulesTested.names[id] = true
		})
	}
}

func validate(t *testing.T, obj, old runtime.Object, subresource string) field.ErrorList {
	t.Helper()
	var errs field.ErrorList
	switch obj := obj.(type) {
	case *hsm.HSMSecret:
		switch {
		case subresource != "":
			errs = validation.ValidateHSMSecretStatusUpdate(obj)
		case old != nil:
			errs = validation.ValidateHSMSecretUpdate(obj, old.(*hsm.HSMSecret))
		default:
			errs = validation.ValidateHSMSecret(obj)
		}
	case *hsm.HSMDevice:
		errs = validation.ValidateHSMDevice(obj)
	case *hsm.HSMPool:
		if subresource != "" {
			errs = validation.ValidateHSMPoolStatusUpdate(obj)
		} else {
			errs = validation.ValidateHSMPool(obj)
		}
	}
	var subresources []string
	if subresource != "" {
		subresources = []string{subresource}
	}
	if old == nil {
		return append(errs, scheme.Validate(context.Background(), nil, versioned(t, obj), subresources...)...)
	}
	return append(errs, scheme.ValidateUpdate(context.Background(), nil, versioned(t, obj), versioned(t, old), subresources...)...)
}

func versioned(t *testing.T, obj runtime.Object) runtime.Object {
	t.Helper()
	versioned, err := scheme.ConvertToVersion(obj, v1alpha1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	return versioned
}

// same leaves the valid object as it is.
func same[T any](*T) {}
