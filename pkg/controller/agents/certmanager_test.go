// SPDX-License-Identifier: Apache-2.0

package agents_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/agents"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/await"
)

// component is what a person's kustomization refers to, patched what comes of it.
const (
	component = "../../../artifacts/deploy/components/cert-manager"
	patched   = "../../../artifacts/deploy/testdata/cert-manager"
)

// From the controller's own certificates to those of the real cert-manager, with the
// component's manifests, and back. No part is cut off from another on the way.
func (r *rig) testCertManager() {
	const serial, other = "ASKED", "ANOTHER"
	secret, name := certs.AgentSecret(agentname.For(serial)), agentname.ServerName(serial, system)
	stop := r.start(agents.AccessDRA, r.authorities)
	must(r.t, r.client.Create(r.ctx, device(system, "asked", v1alpha1.PINSecretReference{Name: "pico-pin"})))
	r.report(system, "asked", seen(serial, "node-1", "/dev/bus/usb/001/030"))
	r.until("an agent", func() error { _, err := r.deployment(serial); return err })
	own := map[string]*corev1.Secret{}
	for _, name := range []string{secret, certs.APIServerClientSecret, certs.AgentsCASecret} {
		own[name] = r.secret(name)
	}
	deployment, err := r.deployment(serial)
	must(r.t, err)
	stop()

	// From nothing.
	must(r.t, r.client.Delete(r.ctx, r.secret(certs.ServingCASecret)))
	must(r.t, r.client.Delete(r.ctx, r.secret(certs.ServingSecret)))
	// Of others, and to be left alone.
	must(r.t, r.client.Delete(r.ctx, r.secret(certs.ControllerClientSecret)))
	theirs := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: certs.ControllerClientSecret},
		Data:       map[string][]byte{corev1.TLSCertKey: []byte("theirs")},
	}
	must(r.t, r.client.Create(r.ctx, theirs))

	r.startCertManager()
	r.renew(certs.AgentsCASecret)
	if !bytes.Equal(r.secret(certs.AgentsCASecret).Data[corev1.TLSPrivateKeyKey], own[certs.AgentsCASecret].Data[corev1.TLSPrivateKeyKey]) {
		r.t.Error("the authority has another key")
	}
	stop = r.start(agents.AccessDRA, func(c client.Client) certs.Issuer { return certs.NewCertManager(c, system) })
	r.until("all certificates", func() error {
		return errors.Join(r.issued(secret), r.issued(certs.APIServerClientSecret), r.issued(certs.ServingSecret))
	})
	for _, c := range []struct {
		secret, authority, cn, dns string
		usage                      x509.ExtKeyUsage
	}{
		{secret, certs.AgentsCASecret, "", name, x509.ExtKeyUsageServerAuth},
		{certs.APIServerClientSecret, certs.AgentsCASecret, "hsm-apiserver", "hsm-apiserver", x509.ExtKeyUsageClientAuth},
		{certs.ServingSecret, certs.ServingCASecret, "", "hsm-apiserver." + system + ".svc", x509.ExtKeyUsageServerAuth},
	} {
		now := r.secret(c.secret)
		leaf := r.leaf(now)
		if leaf.Subject.CommonName != c.cn || !slices.Equal(leaf.DNSNames, []string{c.dns}) || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{c.usage}) {
			r.t.Errorf("%s: CN %q, names %q, usages %v", c.secret, leaf.Subject.CommonName, leaf.DNSNames, leaf.ExtKeyUsage)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Minute); life != 90*24*time.Hour {
			r.t.Errorf("%s lives for %s", c.secret, life)
		}
		if !bytes.Equal(now.Data["ca.crt"], r.secret(c.authority).Data[corev1.TLSCertKey]) {
			r.t.Errorf("%s: not of the authority in %s", c.secret, c.authority)
		}
		if before := own[c.secret]; before != nil {
			// Pods get their files one after the other.
			r.verify(before, now, c.usage)
			r.verify(now, before, c.usage)
		}
	}
	if len(r.secret(certs.ControllerClientSecret).Data) != 1 || r.certificate(certs.ControllerClientSecret) != nil {
		r.t.Error("a Secret of others was taken over")
	}
	if owners := r.certificate(secret).GetOwnerReferences(); len(owners) != 1 || owners[0].Name != "asked" {
		r.t.Errorf("owners of an agent's Certificate: %v", owners)
	}

	r.report(system, "asked", seen(serial, "node-1", "/dev/bus/usb/001/030"), seen(other, "node-1", "/dev/bus/usb/001/031"))
	otherAgent := certs.AgentSecret(agentname.For(other))
	r.until("another agent's certificate", func() error { return r.issued(otherAgent) })
	if now, err := r.deployment(serial); err != nil || now.Generation != deployment.Generation || r.certificate(secret).GetGeneration() != 1 {
		r.t.Errorf("an agent was replaced, or its Certificate written again: %v", err)
	}
	r.testHandshakes(secret, otherAgent, name)

	must(r.t, r.client.Delete(r.ctx, device(system, "asked", v1alpha1.PINSecretReference{})))
	r.until("the agents to be removed", func() error {
		left := r.of(serial)
		maps.Copy(left, r.of(other))
		if len(left) > 0 || r.certificate(secret) != nil || r.certificate(otherAgent) != nil {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	stop()
	r.testInjection()
	r.testBack(own)
}

// testHandshakes has an agent and its client use what cert-manager has made, and renews
// it while they do.
func (r *rig) testHandshakes(secret, otherAgent, name string) {
	agent, thief, client := r.mount(secret), r.mount(otherAgent), r.mount(certs.APIServerClientSecret)
	agentServer, err := agent.Server()
	must(r.t, err)
	apiServer, err := client.Client()
	must(r.t, err)
	shown, err := r.handshake(agentServer, apiServer, name)
	must(r.t, err)

	asClient, err := thief.Client()
	must(r.t, err)
	if _, err := r.handshake(agentServer, asClient, name); err == nil {
		r.t.Error("an agent was let in as a client")
	}
	asOther, err := thief.Server()
	must(r.t, err)
	if _, err := r.handshake(asOther, apiServer, name); err == nil {
		r.t.Error("an agent was taken for another one")
	}
	clientAsAgent, err := client.Server()
	must(r.t, err)
	if _, err := r.handshake(clientAsAgent, apiServer, "hsm-apiserver"); err == nil {
		r.t.Error("a client was taken for an agent")
	}

	r.renew(secret)
	r.refresh(agent, secret)
	renewed, err := r.handshake(agentServer, apiServer, name)
	must(r.t, err)
	if renewed.Equal(shown) || !renewed.Equal(r.leaf(r.secret(secret))) {
		r.t.Error("the agent does not show the certificate that it has now")
	}
}

// testInjection has the APIService of the component take the place of our definitions,
// which what follows does not need.
func (r *rig) testInjection() {
	r.kubectl("", "delete", "crd", "hsmdevices.hsm.j5t.io", "hsmpools.hsm.j5t.io")
	service := &apiregistrationv1.APIService{}
	r.until("kube-apiserver to forget them", func() error {
		err := r.client.Get(r.ctx, client.ObjectKey{Name: certs.APIService}, service)
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	for _, document := range strings.Split(r.kustomize(patched), "\n---\n") {
		if strings.Contains(document, "kind: APIService\n") {
			r.kubectl(document, "apply", "-f", "-")
		}
	}
	r.until("the authority to be trusted", func() error {
		must(r.t, r.client.Get(r.ctx, client.ObjectKey{Name: certs.APIService}, service))
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(service.Spec.CABundle)
		_, err := r.leaf(r.secret(certs.ServingSecret)).Verify(x509.VerifyOptions{Roots: roots, DNSName: "hsm-apiserver." + system + ".svc"})
		return err
	})
}

// testBack does what docs/agents.md says.
func (r *rig) testBack(own map[string]*corev1.Secret) {
	before := r.secret(certs.APIServerClientSecret)
	if err := r.authorities(r.client).Renew(r.ctx); err == nil || !strings.Contains(err.Error(), certs.AgentsCASecret) {
		r.t.Errorf("the authority is cert-manager's: %v", err)
	}
	if r.secret(certs.APIServerClientSecret).ResourceVersion != before.ResourceVersion {
		r.t.Error("a Secret of cert-manager was written")
	}
	r.kubectl("", "delete", "-n", system, "issuers,certificates", "-l", "hsm.j5t.io/certificate-authority=cert-manager")
	r.kubectl("", "label", "-n", system, "--overwrite", "secret", certs.AgentsCASecret, "hsm.j5t.io/certificate-authority=hsm-agents")
	r.kubectl("", "label", "-n", system, "--overwrite", "secret", certs.ServingCASecret, "hsm.j5t.io/certificate-authority=hsm-apiserver-serving")
	r.kubectl("", "delete", "-n", system, "secrets", "-l", "hsm.j5t.io/certificate-authority=cert-manager")
	must(r.t, r.authorities(r.client).Renew(r.ctx))
	now := r.secret(certs.APIServerClientSecret)
	r.verify(before, now, x509.ExtKeyUsageClientAuth)
	r.verify(now, before, x509.ExtKeyUsageClientAuth)
	r.verify(now, own[now.Name], x509.ExtKeyUsageClientAuth)
}

// startCertManager installs the real one, with its definitions and the component, and
// waits until it goes on with the authorities.
func (r *rig) startCertManager() {
	must(r.t, r.DefineCertManager(r.ctx))
	r.kubectl(r.kustomize(component), "apply", "-f", "-")
	must(r.t, r.StartCertManager(r.ctx, os.Stderr, func(context.Context) error {
		return errors.Join(r.issued(certs.AgentsCASecret), r.issued(certs.ServingCASecret))
	}))
}

// renew has cert-manager renew a certificate, as cmctl asks for it.
func (r *rig) renew(name string) {
	r.t.Helper()
	before := r.leaf(r.secret(name))
	r.kubectl("", "patch", "-n", system, "certificates.cert-manager.io", name, "--subresource=status", "--type=json",
		`--patch=[{"op":"add","path":"/status/conditions/-","value":{"type":"Issuing","status":"True","reason":"ManuallyTriggered","message":"test","lastTransitionTime":"2026-01-01T00:00:00Z"}}]`)
	r.until("another certificate", func() error {
		if r.leaf(r.secret(name)).Equal(before) {
			return errors.New("it is the same")
		}
		return r.issued(name)
	})
}

func (r *rig) kustomize(folder string) string {
	r.t.Helper()
	manifests, _, err := r.Kubectl(r.AdminKubeconfig).Run(r.ctx, "kustomize", folder)
	must(r.t, err)
	return manifests
}

// issued is nil if cert-manager has made a Secret, and its Certificate is at rest.
func (r *rig) issued(name string) error {
	certificate := r.certificate(name)
	if certificate == nil {
		return fmt.Errorf("there is no Certificate %s", name)
	}
	conditions, _, err := unstructured.NestedSlice(certificate.Object, "status", "conditions")
	must(r.t, err)
	status := map[any]any{}
	for _, condition := range conditions {
		status[condition.(map[string]any)["type"]] = condition.(map[string]any)["status"]
	}
	if status["Ready"] != "True" || status["Issuing"] == "True" {
		return fmt.Errorf("%s: %v", name, conditions)
	}
	if by := r.secret(name).Labels[certs.AuthorityLabel]; by != certs.ByCertManager {
		return fmt.Errorf("%s is of %q", name, by)
	}
	return nil
}

// certificate is one of cert-manager's, or nil.
func (r *rig) certificate(name string) *unstructured.Unstructured {
	r.t.Helper()
	certificate := &unstructured.Unstructured{}
	certificate.SetGroupVersionKind(certs.CertificateKind)
	err := r.client.Get(r.ctx, client.ObjectKey{Namespace: system, Name: name}, certificate)
	if apierrors.IsNotFound(err) {
		return nil
	}
	must(r.t, err)
	return certificate
}

func (r *rig) secret(name string) *corev1.Secret {
	r.t.Helper()
	secret := &corev1.Secret{}
	must(r.t, r.client.Get(r.ctx, client.ObjectKey{Namespace: system, Name: name}, secret))
	return secret
}

func (r *rig) leaf(secret *corev1.Secret) *x509.Certificate {
	r.t.Helper()
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(r.t, err)
	return leaf
}

// verify fails unless who holds a Secret trusts another's certificate.
func (r *rig) verify(leaf, truster *corev1.Secret, usage x509.ExtKeyUsage) {
	r.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(truster.Data["ca.crt"])
	if _, err := r.leaf(leaf).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		r.t.Errorf("Secret %s is not trusted: %v", leaf.Name, err)
	}
}

// mount is a Secret as files, as kubelet keeps them.
func (r *rig) mount(secret string) mtls.Files {
	r.t.Helper()
	dir := r.t.TempDir()
	files := mtls.Files{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), CAFile: filepath.Join(dir, "ca.crt")}
	r.refresh(files, secret)
	return files
}

func (r *rig) refresh(files mtls.Files, secret string) {
	r.t.Helper()
	for key, value := range r.secret(secret).Data {
		must(r.t, os.WriteFile(filepath.Join(filepath.Dir(files.CertFile), key), value, 0o600))
	}
}

// handshake has a client call a server by a name until both have let the other in. It
// gives the certificate that the server shows.
func (r *rig) handshake(server, client credentials.TransportCredentials, name string) (*x509.Certificate, error) {
	r.t.Helper()
	there, here := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer there.Close()
		conn, _, err := server.ServerHandshake(there)
		if err == nil {
			_, _ = conn.Write([]byte("in"))
		}
	}()
	defer func() {
		here.Close()
		<-served
	}()
	ctx, cancel := context.WithTimeout(r.ctx, await.Limit(patience))
	defer cancel()
	conn, info, err := client.ClientHandshake(ctx, name, here)
	if err != nil {
		return nil, err
	}
	// A client has shaken hands before the server has looked at its certificate.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return nil, err
	}
	return info.(credentials.TLSInfo).State.PeerCertificates[0], nil
}
