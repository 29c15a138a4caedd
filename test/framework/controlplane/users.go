// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// AddUser returns the path of a kubeconfig with a client certificate for this user in these groups.
// The user has the rights that RBAC gives; system:authenticated is added by kube-apiserver.
func (c *ControlPlane) AddUser(name string, groups ...string) (kubeconfig string, err error) {
	certFile, keyFile, err := c.ca.IssueUser(name, groups...)
	if err != nil {
		return "", err
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return "", fmt.Errorf("read certificate of %s: %w", name, err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return "", fmt.Errorf("read key of %s: %w", name, err)
	}
	config := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"local": {Server: c.URL, CertificateAuthorityData: c.ca.Bundle}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {ClientCertificateData: cert, ClientKeyData: key}},
		Contexts:       map[string]*clientcmdapi.Context{"local": {Cluster: "local", AuthInfo: name}},
		CurrentContext: "local",
	}
	content, err := clientcmd.Write(config)
	if err != nil {
		return "", fmt.Errorf("encode kubeconfig of %s: %w", name, err)
	}
	path := filepath.Join(c.dir, "kubeconfig", strings.NewReplacer(":", "-", "/", "-").Replace(name))
	return path, writeFile(path, content)
}

// AddServiceAccount returns a kubeconfig with which a process here is what a Pod with this
// ServiceAccount is in a cluster: RoleBindings to the ServiceAccount hold for it.
func (c *ControlPlane) AddServiceAccount(namespace, name string) (kubeconfig string, err error) {
	return c.AddUser("system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
}

// Config reads a kubeconfig for clients without a rate limit of their own.
func Config(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS = -1
	return config, nil
}

// Kubectl runs the real kubectl. A copy with other fields is another way to run it.
type Kubectl struct {
	// Path is the binary.
	Path string
	// Env is added to the environment; it holds KUBECONFIG.
	Env   []string
	Stdin io.Reader
}

// Kubectl returns a kubectl that is the user of the kubeconfig.
func (c *ControlPlane) Kubectl(kubeconfig string) Kubectl {
	return Kubectl{Path: c.kubectl, Env: []string{
		"KUBECONFIG=" + kubeconfig,
		// The cache of discovery in the home folder is keyed by address, which another cluster had before.
		"KUBECACHEDIR=" + filepath.Join(c.dir, "kubectl-cache"),
	}}
}

// Run runs kubectl to its end. The error is that of the process, with stderr.
func (k Kubectl) Run(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, k.Path, args...)
	cmd.Env = append(os.Environ(), k.Env...)
	cmd.Stdin = k.Stdin
	var out, errOut bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = &errOut
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), errOut.String(), err
}
