// SPDX-License-Identifier: Apache-2.0

package certs_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/controller/certs"
)

const (
	namespace = "hsm-system"
	day       = 24 * time.Hour
)

var owner = metav1.OwnerReference{APIVersion: "hsm.j5t.io/v1alpha1", Kind: "HSMDevice", Name: "pico", UID: "1"}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is an Issuer in a cluster of one clock, that counts writes.
type world struct {
	*certs.Authorities
	t      *testing.T
	client client.Client
	clock  *clocktesting.FakePassiveClock
	writes int
}

func newWorld(t *testing.T, now time.Time, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, clock: clocktesting.NewFakePassiveClock(now)}
	scheme := runtime.NewScheme()
	must(t, corev1.AddToScheme(scheme))
	service := &unstructured.Unstructured{}
	service.SetAPIVersion("apiregistration.k8s.io/v1")
	service.SetKind("APIService")
	service.SetName(certs.APIService)
	service.SetAnnotations(map[string]string{certs.InjectAnnotation: "true"})
	w.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(objects, service)...).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
			w.writes++
			return c.Create(ctx, o, options...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.UpdateOption) error {
			w.writes++
			return c.Update(ctx, o, options...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
			w.writes++
			return c.Patch(ctx, o, p, options...)
		},
	}).Build()
	w.Authorities = certs.NewAuthorities(w.client, namespace, w.clock)
	return w
}

// pass lets time pass, and renews.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.clock.SetTime(w.clock.Now().Add(d))
	must(w.t, w.Renew(w.t.Context()))
}

func (w *world) secret(name string) *corev1.Secret {
	w.t.Helper()
	secret := &corev1.Secret{}
	must(w.t, w.client.Get(w.t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, secret))
	return secret
}

func (w *world) certificate(name string) *x509.Certificate {
	w.t.Helper()
	block, _ := pem.Decode(w.secret(name).Data[corev1.TLSCertKey])
	if block == nil {
		w.t.Fatalf("Secret %s holds no certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	must(w.t, err)
	return cert
}

func (w *world) apiService() *unstructured.Unstructured {
	w.t.Helper()
	service := &unstructured.Unstructured{}
	service.SetAPIVersion("apiregistration.k8s.io/v1")
	service.SetKind("APIService")
	must(w.t, w.client.Get(w.t.Context(), types.NamespacedName{Name: certs.APIService}, service))
	return service
}

func (w *world) caBundle() []byte {
	w.t.Helper()
	encoded, _, err := unstructured.NestedString(w.apiService().Object, "spec", "caBundle")
	must(w.t, err)
	bundle, err := base64.StdEncoding.DecodeString(encoded)
	must(w.t, err)
	return bundle
}

// verify reports whether a leaf is good by the bundle that another holds.
func (w *world) verify(leaf, truster, name string, usage x509.ExtKeyUsage) error {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.secret(truster).Data["ca.crt"])
	_, err := w.certificate(leaf).Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: w.clock.Now()})
	return err
}

// agent has a certificate issued to an agent, and gives its Secret and its server name.
func (w *world) agent(serial string) (secret, name string) {
	w.t.Helper()
	must(w.t, w.Agent(w.t.Context(), agentname.For(serial), []metav1.OwnerReference{owner}))
	return certs.AgentSecret(agentname.For(serial)), agentname.ServerName(serial, namespace)
}

func TestIssue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	secret, name := w.agent("E6614C311B4FC726")
	w.pass(0)

	for _, c := range []struct {
		leaf, truster, cn string
		usage, refused    x509.ExtKeyUsage
	}{
		{secret, certs.APIServerClientSecret, name, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		{certs.APIServerClientSecret, secret, "hsm-apiserver", x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		{certs.ControllerClientSecret, secret, "hsm-controller", x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		{certs.ServingSecret, certs.ServingSecret, "hsm-apiserver.hsm-system.svc", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	} {
		if cn := w.certificate(c.leaf).Subject.CommonName; cn != c.cn {
			t.Errorf("%s: CN is %q, want %q", c.leaf, cn, c.cn)
		}
		must(t, w.verify(c.leaf, c.truster, c.cn, c.usage))
		if w.verify(c.leaf, c.truster, c.cn, c.refused) == nil {
			t.Errorf("%s is good for the wrong side", c.leaf)
		}
		if w.verify(c.leaf, c.truster, "other."+c.cn, c.usage) == nil {
			t.Errorf("%s is good for another name", c.leaf)
		}
		if len(w.secret(c.leaf).Data) != 3 {
			t.Errorf("%s holds more than certificate, key and authorities", c.leaf)
		}
	}
	if w.verify(secret, certs.ServingSecret, name, x509.ExtKeyUsageServerAuth) == nil {
		t.Error("who trusts the API server trusts an agent")
	}
	if !bytes.Equal(w.caBundle(), w.secret(certs.ServingSecret).Data["ca.crt"]) {
		t.Error("the APIService does not trust the authority of the serving certificate")
	}
	if owners := w.secret(secret).OwnerReferences; len(owners) != 1 || owners[0] != owner {
		t.Errorf("owners of an agent's Secret: %v", owners)
	}

	w.writes = 0
	w.pass(time.Hour)
	must(t, w.Agent(t.Context(), agentname.For("E6614C311B4FC726"), []metav1.OwnerReference{owner}))
	if w.writes != 0 {
		t.Errorf("%d writes though nothing was to be done", w.writes)
	}
}

func TestRenewLeaf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	secret, name := w.agent("a")
	w.pass(0)
	before, authority := w.certificate(secret), w.certificate(certs.AgentsCASecret)

	w.pass(59 * day)
	if !w.certificate(secret).Equal(before) {
		t.Error("renewed too early")
	}
	w.pass(2 * day)
	if w.certificate(secret).Equal(before) {
		t.Error("not renewed a month before it expires")
	}
	must(t, w.verify(secret, secret, name, x509.ExtKeyUsageServerAuth))
	if !w.certificate(certs.AgentsCASecret).Equal(authority) {
		t.Error("the authority has changed, too")
	}
}

// Who holds a leaf or a bundle of one moment trusts all of the next moment.
func TestRotateAuthority(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	secret, name := w.agent("a")
	w.pass(0)
	first := w.certificate(certs.AgentsCASecret)
	leafs := []string{secret, certs.APIServerClientSecret, certs.ServingSecret}
	bundles := map[string]int{}

	w.clock.SetTime(w.clock.Now().Add((3*365 - 182) * day))
	for range 6 * 4 {
		pools := map[string]*x509.CertPool{}
		old := map[string]*x509.Certificate{}
		for _, l := range leafs {
			pools[l] = x509.NewCertPool()
			pools[l].AppendCertsFromPEM(w.secret(l).Data["ca.crt"])
			old[l] = w.certificate(l)
		}
		w.pass(6 * time.Hour)
		for _, l := range leafs {
			block := w.secret(l).Data["ca.crt"]
			now := x509.NewCertPool()
			now.AppendCertsFromPEM(block)
			bundles[l] = max(bundles[l], bytes.Count(block, []byte("BEGIN CERTIFICATE")))
			at := w.clock.Now()
			if old[l].NotAfter.Before(at) {
				continue
			}
			anyUse := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
			if _, err := w.certificate(l).Verify(x509.VerifyOptions{Roots: pools[l], CurrentTime: at, KeyUsages: anyUse}); err != nil {
				t.Errorf("%s: who has the bundle of six hours ago does not trust the leaf: %v", l, err)
			}
			if _, err := old[l].Verify(x509.VerifyOptions{Roots: now, CurrentTime: at, KeyUsages: anyUse}); err != nil {
				t.Errorf("%s: the leaf of six hours ago is no longer trusted: %v", l, err)
			}
		}
	}
	if w.certificate(certs.AgentsCASecret).Equal(first) {
		t.Error("the authority was not rotated half a year before it expires")
	}
	for _, l := range leafs {
		if bundles[l] != 2 || bytes.Count(w.secret(l).Data["ca.crt"], []byte("BEGIN CERTIFICATE")) != 1 {
			t.Errorf("%s: at most %d authorities were trusted, not the old and the new one for a while", l, bundles[l])
		}
	}
	must(t, w.verify(secret, certs.APIServerClientSecret, name, x509.ExtKeyUsageServerAuth))
	if !bytes.Equal(w.caBundle(), w.secret(certs.ServingSecret).Data["ca.crt"]) {
		t.Error("the APIService does not trust the new authority")
	}
}

// A bundle that could not be written for long is trusted for a day before
// anything is signed by what is new in it.
func TestLateSpread(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	secret, _ := w.agent("a")
	w.pass(0)
	w.pass((3*365 - 179) * day) // The next one is announced.
	first := w.certificate(certs.AgentsCASecret)
	stale := w.secret(secret)
	stale.Data["ca.crt"] = w.secret(certs.AgentsCASecret).Data[corev1.TLSCertKey]
	must(t, w.client.Update(t.Context(), stale))
	w.pass(2 * day)
	if !w.certificate(certs.AgentsCASecret).Equal(first) {
		t.Error("the next authority signs though an agent has only just been told of it")
	}
	w.pass(2 * day)
	if w.certificate(certs.AgentsCASecret).Equal(first) {
		t.Error("the next authority does not sign")
	}
}

func TestLongSleep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	secret, name := w.agent("a")
	w.pass(0)
	w.pass(5 * 365 * day)
	must(t, w.verify(secret, certs.APIServerClientSecret, name, x509.ExtKeyUsageServerAuth))
	w.writes = 0
	w.pass(time.Minute)
	if w.writes != 0 {
		t.Errorf("%d writes though nothing was to be done", w.writes)
	}
}

func TestSecretsOfOthers(t *testing.T) {
	t.Parallel()
	theirs := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: certs.ServingSecret},
		Data:       map[string][]byte{corev1.TLSCertKey: []byte("theirs")},
	}
	w := newWorld(t, time.Now(), theirs)
	w.pass(0)
	if got := w.secret(certs.ServingSecret).Data; len(got) != 1 || string(got[corev1.TLSCertKey]) != "theirs" {
		t.Error("a Secret of others was written")
	}
	if len(w.caBundle()) != 0 {
		t.Error("the APIService was told to trust us, for a certificate that is of others")
	}
}

func TestAPIServiceOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	must(t, w.client.Patch(t.Context(), w.apiService(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":null}}`))))
	w.pass(0)
	if len(w.caBundle()) != 0 {
		t.Error("an APIService that did not ask for it was told to trust us")
	}
}

// What lies in a Secret does not decide what is signed.
func TestTampered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	secret, name := w.agent("a")
	w.pass(0)
	tampered := w.secret(secret)
	tampered.Data = w.secret(certs.APIServerClientSecret).Data
	must(t, w.client.Update(t.Context(), tampered))
	w.pass(0)
	must(t, w.verify(secret, secret, name, x509.ExtKeyUsageServerAuth))
	if w.verify(secret, secret, "hsm-apiserver", x509.ExtKeyUsageClientAuth) == nil {
		t.Error("an agent holds a certificate of the API server")
	}

	must(t, w.client.Delete(t.Context(), w.secret(secret)))
	w.pass(0)
	err := w.client.Get(t.Context(), client.ObjectKeyFromObject(tampered), &corev1.Secret{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the certificate of an agent that is gone: %v", err)
	}
}

func TestDamagedAuthority(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Now())
	w.pass(0)
	damaged := w.secret(certs.AgentsCASecret)
	key := damaged.Data[corev1.TLSPrivateKeyKey]
	damaged.Data[corev1.TLSPrivateKeyKey] = key[:len(key)/2]
	must(t, w.client.Update(t.Context(), damaged))
	w.writes = 0
	err := w.Renew(t.Context())
	if err == nil || w.writes != 0 {
		t.Fatalf("a damaged authority: %d writes, %v", w.writes, err)
	}
	if bytes.Contains([]byte(err.Error()), key[100:140]) {
		t.Error("the error holds the key")
	}
}
