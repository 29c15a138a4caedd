// SPDX-License-Identifier: Apache-2.0

// Package cluster runs the whole product on the loopback interface: a real
// control plane, a SoftHSM token, its agent, and the API server behind an
// APIService. Tests and the demo share it. It owns one folder and the
// processes, none of which outlives the caller.
package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime/schema"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/softhsm"
)

// SystemNamespace is where the manifests put the product.
const SystemNamespace = "hsm-system"

// manifests are what a cluster needs besides processes.
var manifests = []string{
	"namespace.yaml",
	"apiserver-rbac.yaml",
	"apiserver-namespaces.yaml",
	"user-roles.yaml",
}

// Options says what to run.
type Options struct {
	// Dir takes all that is written. The caller removes it.
	Dir string
	// ControllerManager starts kube-controller-manager.
	ControllerManager bool
	// AuditPolicyFile turns kube-apiserver's audit log on.
	AuditPolicyFile string
	// KubeAPIServerArgs and APIServerArgs are added to the arguments of
	// kube-apiserver and of our API server.
	KubeAPIServerArgs, APIServerArgs []string
	// Pools lets the API server find agents by HSMPools: it is told of none. The
	// agent of the token is not started: StartAgent does, with --provision.
	Pools bool
	// Races has the product's processes look for data races, if the tests do.
	Races bool
	// Verbosity is the -v of all processes.
	Verbosity int
	// Progress is told what is being done.
	Progress io.Writer
}

// Cluster is the running product.
type Cluster struct {
	*controlplane.ControlPlane
	// Token is the hardware security module.
	Token softhsm.Token
	// Agent owns the token, APIServer serves the API. Kill and start them at will.
	Agent, APIServer *process.Process
	// AgentAddress is where the agent listens; AgentClient proves a caller to it
	// as the API server does.
	AgentAddress string
	AgentClient  mtls.Files
	// AgentAddresses are those that API servers are told when they are started.
	// Put a faulty network before the agent by them.
	AgentAddresses []string

	options Options
	// checkout is the folder of the module.
	checkout string
	service  controlplane.APIService
	// agents is the authority between API server and agents, serving that of the
	// API server's serving certificate.
	agents, serving *pki.CA
	apiServerConfig string
}

// Start runs everything and waits until kubectl can use it.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	c := &Cluster{options: o}
	if err := c.start(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// Stop ends all processes. What they wrote stays.
func (c *Cluster) Stop() {
	for _, p := range []*process.Process{c.APIServer, c.Agent} {
		if p != nil {
			p.Kill()
		}
	}
	if c.ControlPlane != nil {
		c.ControlPlane.Stop()
	}
}

func (c *Cluster) start(ctx context.Context) error {
	var err error
	if c.agents, err = pki.NewCA(filepath.Join(c.options.Dir, "pki", "agents")); err != nil {
		return err
	}
	if c.serving, err = pki.NewCA(filepath.Join(c.options.Dir, "pki", "serving")); err != nil {
		return err
	}
	if c.Token, err = softhsm.Create(filepath.Join(c.options.Dir, "token"), "hsm", "648219"); err != nil {
		return err
	}

	agentPort, err := process.FreePort()
	if err != nil {
		return err
	}
	c.AgentAddress = loopback(agentPort)
	if !c.options.Pools {
		fmt.Fprintln(c.options.Progress, "Starting the agent of the token ...")
		c.AgentAddresses = []string{c.AgentAddress}
		if err := c.StartAgent(ctx, "--provision"); err != nil {
			return err
		}
	}

	fmt.Fprintln(c.options.Progress, "Starting etcd and kube-apiserver ...")
	c.ControlPlane, err = controlplane.Start(ctx, controlplane.Options{
		Dir:               filepath.Join(c.options.Dir, "kubernetes"),
		ControllerManager: c.options.ControllerManager,
		AuditPolicyFile:   c.options.AuditPolicyFile,
		APIServerArgs:     c.options.KubeAPIServerArgs,
		Verbosity:         c.options.Verbosity,
		Progress:          c.options.Progress,
	})
	if err != nil {
		return err
	}
	if c.checkout, err = assets.Checkout(ctx); err != nil {
		return err
	}
	apply := []string{"apply"}
	for _, manifest := range manifests {
		apply = append(apply, "-f", c.Manifest(manifest))
	}
	if _, _, err := c.Kubectl(c.AdminKubeconfig).Run(ctx, apply...); err != nil {
		return err
	}
	// The manifests' ServiceAccount and no more: a right that is missing there
	// is missing here.
	if c.apiServerConfig, err = c.AddServiceAccount(SystemNamespace, "hsm-apiserver"); err != nil {
		return err
	}

	fmt.Fprintln(c.options.Progress, "Starting the API server of hsm.j5t.io ...")
	c.AgentClient.CAFile = c.agents.CertFile
	if c.AgentClient.CertFile, c.AgentClient.KeyFile, err = c.agents.Issue(agentv1.ClientAPIServer, pki.Client); err != nil {
		return err
	}
	port, err := process.FreePort()
	if err != nil {
		return err
	}
	c.service = controlplane.APIService{
		GroupVersion: schema.GroupVersion{Group: "hsm.j5t.io", Version: "v1alpha1"},
		Namespace:    SystemNamespace,
		Name:         "hsm-apiserver",
		Port:         port,
		CABundle:     c.serving.Bundle,
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	return c.RegisterAPIService(ctx, c.service)
}

// StartAgent starts the agent on the same token, address and state as before,
// and waits until it serves the store.
func (c *Cluster) StartAgent(ctx context.Context, extraArgs ...string) error {
	spec, err := c.AgentSpec(ctx, "agent", c.AgentAddress, c.Token.PINFile)
	if err != nil {
		return err
	}
	spec.Args = append(spec.Args, extraArgs...)
	spec.Ready = c.AgentServes
	c.Agent, err = process.Start(ctx, spec)
	return err
}

func (c *Cluster) binary(ctx context.Context, name string) (string, error) {
	if c.options.Races {
		return assets.OwnWithRaces(ctx, c.options.Progress, name)
	}
	return assets.Own(ctx, c.options.Progress, name)
}

// AgentSpec is how an agent of the token is started: its name is that of its
// state directory and log. Nothing waits for it to be ready.
func (c *Cluster) AgentSpec(ctx context.Context, name, address, pinFile string) (process.Spec, error) {
	binary, err := c.binary(ctx, "agent")
	if err != nil {
		return process.Spec{}, err
	}
	state := filepath.Join(c.StateDir(), name)
	if err := os.MkdirAll(state, 0o700); err != nil {
		return process.Spec{}, err
	}
	serverName := agentname.ServerName(c.Token.Serial, SystemNamespace)
	certFile, keyFile, err := c.agents.Issue(agentname.For(c.Token.Serial), pki.Server, serverName)
	if err != nil {
		return process.Spec{}, err
	}
	return process.Spec{
		Name: name,
		Path: binary,
		Args: []string{
			"--pkcs11-module=" + c.Token.Library,
			"--token-serial=" + c.Token.Serial,
			"--pin-file=" + pinFile,
			"--state-dir=" + state,
			"--listen=" + address,
			"--tls-cert-file=" + certFile,
			"--tls-private-key-file=" + keyFile,
			"--client-ca-file=" + c.agents.CertFile,
			"-v=" + strconv.Itoa(c.options.Verbosity),
		},
		Env:     c.Token.Env,
		LogFile: filepath.Join(c.LogDir(), name+".log"),
	}, nil
}

// StartAPIServer starts the API server at its address, and waits until it is
// ready.
func (c *Cluster) StartAPIServer(ctx context.Context, extraArgs ...string) error {
	spec, err := c.APIServerSpec(ctx, "apiserver", c.service.Port)
	if err != nil {
		return err
	}
	spec.Args = append(spec.Args, extraArgs...)
	c.APIServer, err = process.Start(ctx, spec)
	return err
}

// APIServerSpec is how a replica of the API server is started that listens on a
// port of the loopback interface: its name is that of its log.
func (c *Cluster) APIServerSpec(ctx context.Context, name string, port int) (process.Spec, error) {
	binary, err := c.binary(ctx, "apiserver")
	if err != nil {
		return process.Spec{}, err
	}
	certFile, keyFile, err := c.serving.Issue("apiserver", pki.Server, c.service.DNSName())
	if err != nil {
		return process.Spec{}, err
	}
	args := []string{
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
		"--tls-cert-file=" + certFile,
		"--tls-private-key-file=" + keyFile,
		"--kubeconfig=" + c.apiServerConfig,
		"--authentication-kubeconfig=" + c.apiServerConfig,
		"--authorization-kubeconfig=" + c.apiServerConfig,
		"--system-namespace=" + SystemNamespace,
		"--agent-ca-file=" + c.AgentClient.CAFile,
		"--agent-cert-file=" + c.AgentClient.CertFile,
		"--agent-key-file=" + c.AgentClient.KeyFile,
		"--v=" + strconv.Itoa(c.options.Verbosity),
	}
	for _, address := range c.AgentAddresses {
		args = append(args, "--agent="+address)
	}
	return process.Spec{
		Name:    name,
		Path:    binary,
		Args:    append(args, c.options.APIServerArgs...),
		LogFile: filepath.Join(c.LogDir(), name+".log"),
		Ready:   c.APIServerAnswers(port, "/readyz"),
	}, nil
}

// APIServerAnswers is nil when an API server at a port of the loopback interface
// answers a path that needs no rights with 200.
func (c *Cluster) APIServerAnswers(port int, path string) func(context.Context) error {
	return answers("https://"+loopback(port)+path, c.serving.Bundle)
}

// ServingCA is the authority (PEM) of the API server's serving certificate.
func (c *Cluster) ServingCA() []byte { return c.serving.Bundle }

// ServeFrom makes kube-apiserver reach the API server at another port.
func (c *Cluster) ServeFrom(ctx context.Context, port int) error {
	c.service.Port = port
	return c.RegisterAPIService(ctx, c.service)
}

// APIServerPort is where kube-apiserver reaches the API server.
func (c *Cluster) APIServerPort() int { return c.service.Port }

// Manifest is the path of a file of artifacts/deploy/base.
func (c *Cluster) Manifest(name string) string {
	return filepath.Join(c.checkout, "artifacts", "deploy", "base", name)
}

// LogDir holds the logs of our own processes, those of Kubernetes are in
// ControlPlane.LogDir.
func (c *Cluster) LogDir() string { return filepath.Join(c.options.Dir, "logs") }

// StateDir holds the state directories of the agents.
func (c *Cluster) StateDir() string { return filepath.Join(c.options.Dir, "state") }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
