// SPDX-License-Identifier: Apache-2.0

package configmap

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/storage"

	"j5t.io/hsm/pkg/storage/records"
)

func TestName(t *testing.T) {
	t.Parallel()
	b := &backend{resource: "hsmdevices"}
	long := strings.Repeat("a", 253)
	plain := map[string]string{
		"/hsm.j5t.io/hsmdevices/default/pico":         "hsmdevices.default.pico",
		"/hsm.j5t.io/hsmdevices/default/pico.usb":     "hsmdevices.default.pico.usb",
		"/hsm.j5t.io/hsmdevices/hsmdevices/pico":      "hsmdevices.hsmdevices.pico",
		"/hsm.j5t.io/hsmdevices/a/" + long[:253-12-1]: "hsmdevices.a." + long[:253-12-1],
	}
	hashed := []string{
		"/hsm.j5t.io/hsmdevices/a/" + long[:253-12],
		"/hsm.j5t.io/hsmdevices/a/" + long,
		"/hsm.j5t.io/hsmdevices/b/" + long,
		"/hsm.j5t.io/hsmdevices/a/A",
		"/hsm.j5t.io/hsmdevices/a.b/c",
		"/hsm.j5t.io/hsmdevices/a/b/c",
		"/hsm.j5t.io/hsmdevices//c",
		"/unrelated",
	}
	names := map[string]string{}
	check := func(key, name string) {
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			t.Errorf("%s: %s is no name: %v", key, name, problems)
		}
		if other, ok := names[name]; ok {
			t.Errorf("%s and %s share the name %s", key, other, name)
		}
		names[name] = key
	}
	for key, want := range plain {
		if got := b.name(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
		check(key, b.name(key))
	}
	for _, key := range hashed {
		name := b.name(key)
		if strings.Count(name, ".") != 1 {
			t.Errorf("%s: %s could be the name of another key", key, name)
		}
		check(key, name)
	}
}

func TestHostError(t *testing.T) {
	t.Parallel()
	gone := apierrors.NewGenericServerResponse(http.StatusGone, "get", schema.GroupResource{}, "", "old", 0, false)
	configMaps := schema.GroupResource{Resource: "configmaps"}
	for name, c := range map[string]struct {
		err  error
		want func(error) bool
	}{
		"expired": {apierrors.NewResourceExpired("old"), func(err error) bool { return errors.Is(err, records.ErrExpired) }},
		"gone":    {gone, func(err error) bool { return errors.Is(err, records.ErrExpired) }},
		"future": {storage.NewTooLargeResourceVersionError(2, 1, 0),
			func(err error) bool { return errors.Is(err, records.ErrFutureRevision) }},
		"no namespace":      {apierrors.NewNotFound(configMaps, "x"), apierrors.IsInternalError},
		"no right":          {apierrors.NewForbidden(configMaps, "x", nil), apierrors.IsInternalError},
		"no credentials":    {apierrors.NewUnauthorized("no"), apierrors.IsInternalError},
		"too many requests": {apierrors.NewTooManyRequests("slow", 1), apierrors.IsTooManyRequests},
		"unreachable":       {&url.Error{Op: "Get", Err: errors.New("connection refused")}, apierrors.IsServiceUnavailable},
	} {
		if err := hostError(c.err); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
