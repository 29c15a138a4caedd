// SPDX-License-Identifier: Apache-2.0

// Package controlplane runs a real Kubernetes control plane on the loopback interface: etcd,
// kube-apiserver with its aggregation layer and, where wanted, kube-controller-manager and kube-scheduler.
// It owns one folder and the processes, none of which outlives the caller. It never runs a kubelet.
package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
)

// Options says what to start.
type Options struct {
	// Dir takes all that the control plane writes. The caller removes it.
	Dir string
	// ControllerManager starts kube-controller-manager with all its controllers.
	ControllerManager bool
	// Scheduler starts kube-scheduler. Nodes are made by the test: a new one is tainted as not
	// ready until somebody says otherwise.
	Scheduler bool
	// AuditPolicyFile turns the audit log on (see ControlPlane.AuditLog).
	AuditPolicyFile string
	// Verbosity is the -v of the Kubernetes binaries.
	Verbosity int
	// APIServerArgs are added to kube-apiserver's arguments, ComponentArgs to those of
	// kube-apiserver, kube-controller-manager and kube-scheduler.
	APIServerArgs, ComponentArgs []string
	// Progress is told about slow preparations: a download or a build of the binaries.
	Progress io.Writer
}

// ControlPlane is a running control plane.
type ControlPlane struct {
	// URL is that of kube-apiserver.
	URL string
	// Admin is a client of the group system:masters.
	Admin *rest.Config
	// AdminKubeconfig is the same as a file.
	AdminKubeconfig string
	// CAFile is the PEM file of the authority that signs kube-apiserver's and its users' certificates.
	CAFile string
	// RequestHeaderCAFile is the PEM file of the authority that signs the aggregator's client certificate.
	RequestHeaderCAFile string
	// EtcdDataDir is etcd's data, LogDir the log of each process, AuditLog the audit log.
	EtcdDataDir, LogDir, AuditLog string

	dir               string
	kubectl           string
	ca                *pki.CA
	serviceAccountKey string
	kubernetes        kubernetes.Interface
	processes         []*process.Process
}

// Start starts a control plane and waits until it is ready for an aggregated API server.
// The end of ctx ends the waiting, not what was started. When it fails nothing is left running.
func Start(ctx context.Context, o Options) (*ControlPlane, error) {
	names := []string{assets.Etcd, assets.KubeAPIServer, assets.Kubectl}
	if o.ControllerManager {
		names = append(names, assets.KubeControllerManager)
	}
	if o.Scheduler {
		names = append(names, assets.KubeScheduler)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	binaries, err := assets.Find(ctx, o.Progress, names...)
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{
		EtcdDataDir: filepath.Join(o.Dir, "etcd"),
		LogDir:      filepath.Join(o.Dir, "logs"),
		AuditLog:    filepath.Join(o.Dir, "logs", "audit.log"),
		dir:         o.Dir,
		kubectl:     binaries[assets.Kubectl],
	}
	if err := c.start(ctx, o, binaries); err != nil {
		c.Stop()
		return nil, fmt.Errorf("start control plane: %w", err)
	}
	return c, nil
}

// Stop ends all processes. What they wrote stays.
func (c *ControlPlane) Stop() {
	for len(c.processes) > 0 {
		last := len(c.processes) - 1
		c.processes[last].Kill()
		c.processes = c.processes[:last]
	}
}

// Restart kills a process of the control plane, by the name of its binary, and
// starts it again, with nothing in its memory.
func (c *ControlPlane) Restart(ctx context.Context, name string) error {
	for i, p := range c.processes {
		if p.Name != name {
			continue
		}
		p.Kill()
		again, err := process.Start(ctx, p.Spec)
		if err != nil {
			return err
		}
		c.processes[i] = again
		return nil
	}
	return fmt.Errorf("restart %s: it was not started", name)
}

func (c *ControlPlane) start(ctx context.Context, o Options, binaries map[string]string) error {
	var err error
	if c.ca, err = pki.NewCA(filepath.Join(c.dir, "pki", "cluster")); err != nil {
		return err
	}
	c.CAFile = c.ca.CertFile
	etcdFlags, err := c.startEtcd(ctx, binaries[assets.Etcd])
	if err != nil {
		return err
	}
	if err := c.startAPIServer(ctx, o, binaries[assets.KubeAPIServer], etcdFlags); err != nil {
		return err
	}
	return c.startClients(ctx, o, binaries)
}

// startEtcd returns the flags with which kube-apiserver reaches it. etcd's authority is its own, as in
// production: whoever has a certificate of the cluster's cannot go around kube-apiserver.
func (c *ControlPlane) startEtcd(ctx context.Context, binary string) ([]string, error) {
	ca, err := pki.NewCA(filepath.Join(c.dir, "pki", "etcd"))
	if err != nil {
		return nil, err
	}
	cert, key, err := ca.Issue("etcd", pki.Server)
	if err != nil {
		return nil, err
	}
	clientCert, clientKey, err := ca.Issue("kube-apiserver", pki.Client)
	if err != nil {
		return nil, err
	}
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	client, err := httpsClient(ca.Bundle, clientCert, clientKey)
	if err != nil {
		return nil, err
	}
	err = c.run(ctx, process.Spec{
		Name: "etcd",
		Path: binary,
		Args: []string{
			"--data-dir=" + c.EtcdDataDir,
			"--listen-client-urls=https://" + address,
			"--advertise-client-urls=https://" + address,
			"--listen-peer-urls=http://127.0.0.1:0",
			"--cert-file=" + cert,
			"--key-file=" + key,
			"--trusted-ca-file=" + ca.CertFile,
			"--client-cert-auth",
			// The data is thrown away with the cluster.
			"--unsafe-no-fsync",
		},
		Ready: answers(client, "https://"+address+"/health"),
	})
	return []string{
		"--etcd-servers=https://" + address,
		"--etcd-cafile=" + ca.CertFile,
		"--etcd-certfile=" + clientCert,
		"--etcd-keyfile=" + clientKey,
	}, err
}

func (c *ControlPlane) startAPIServer(ctx context.Context, o Options, binary string, etcdFlags []string) error {
	port, err := process.FreePort()
	if err != nil {
		return err
	}
	c.URL = "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if c.AdminKubeconfig, err = c.AddUser("admin", "system:masters"); err != nil {
		return err
	}
	if c.Admin, err = Config(c.AdminKubeconfig); err != nil {
		return err
	}
	if c.kubernetes, err = kubernetes.NewForConfig(c.Admin); err != nil {
		return err
	}
	cert, key, err := c.ca.Issue("kube-apiserver", pki.Server, "kubernetes.default.svc", "10.0.0.1")
	if err != nil {
		return err
	}
	serviceAccountCert, serviceAccountKey, err := c.ca.Issue("service-accounts", pki.Client)
	if err != nil {
		return err
	}
	c.serviceAccountKey = serviceAccountKey
	aggregation, err := pki.NewCA(filepath.Join(c.dir, "pki", "aggregation"))
	if err != nil {
		return err
	}
	c.RequestHeaderCAFile = aggregation.CertFile
	proxyCert, proxyKey, err := aggregation.Issue("aggregator", pki.Client)
	if err != nil {
		return err
	}
	args := append([]string{
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
		"--tls-cert-file=" + cert,
		"--tls-private-key-file=" + key,
		"--client-ca-file=" + c.ca.CertFile,
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + serviceAccountCert,
		"--service-account-signing-key-file=" + serviceAccountKey,
		"--service-cluster-ip-range=10.0.0.0/24",
		// Endpoints of the Service "kubernetes" may not lie on the loopback interface.
		"--endpoint-reconciler-type=none",
		// Without kube-controller-manager nobody makes the default ServiceAccounts that Pods need.
		"--disable-admission-plugins=ServiceAccount",
		"--requestheader-client-ca-file=" + aggregation.CertFile,
		"--requestheader-allowed-names=aggregator",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + proxyCert,
		"--proxy-client-key-file=" + proxyKey,
		"--v=" + strconv.Itoa(o.Verbosity),
	}, etcdFlags...)
	if o.AuditPolicyFile != "" {
		args = append(args, "--audit-policy-file="+o.AuditPolicyFile, "--audit-log-path="+c.AuditLog)
	}
	return c.run(ctx, process.Spec{
		Name:  "kube-apiserver",
		Path:  binary,
		Args:  slices.Concat(args, o.ComponentArgs, o.APIServerArgs),
		Ready: c.apiServerReady,
	})
}

// apiServerReady waits, beyond readyz, for what kube-apiserver writes for aggregated servers soon after.
func (c *ControlPlane) apiServerReady(ctx context.Context) error {
	if err := c.kubernetes.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return err
	}
	if _, err := c.kubernetes.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{}); err != nil {
		return err
	}
	authentication, err := c.kubernetes.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, key := range []string{"client-ca-file", "requestheader-client-ca-file"} {
		if authentication.Data[key] == "" {
			return fmt.Errorf("ConfigMap %s has no %s yet", authentication.Name, key)
		}
	}
	return nil
}

func (c *ControlPlane) run(ctx context.Context, spec process.Spec) error {
	spec.LogFile = filepath.Join(c.LogDir, spec.Name+".log")
	p, err := process.Start(ctx, spec)
	if err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return nil
}

func httpsClient(ca []byte, certFile, keyFile string) (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", certFile, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{
		// Then it is asked again.
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		},
	}, nil
}

// answers is ready when the URL answers 200.
func answers(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}
