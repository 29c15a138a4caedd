// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"j5t.io/hsm/test/framework/cluster"
)

// startTimeout bounds the start of the cluster, the first build of a control plane included.
const startTimeout = 45 * time.Minute

// supervise runs the cluster until ctx is done. It is ready when the file with the variables is there.
func (s state) supervise(ctx context.Context) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Close()

	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := cluster.Start(starting, cluster.Options{Dir: s.clusterDir(), Progress: os.Stdout})
	if err != nil {
		return err
	}
	defer c.Stop()
	visitor, err := c.AddUser("visitor")
	if err != nil {
		return err
	}
	kubectl := c.Kubectl(c.AdminKubeconfig).Path
	err = s.publish([][2]string{
		{"KUBECONFIG", c.AdminKubeconfig},
		{"VISITOR_KUBECONFIG", visitor},
		{"KUBECTL_DIR", filepath.Dir(kubectl)},
		{"TOKEN_DIR", c.Token.Dir},
		{"ETCD_DIR", c.EtcdDataDir},
		{"LOG_DIR", c.LogDir()},
		{"AGENT_ADDRESS", c.AgentAddress},
		{"AGENT_CA_FILE", c.AgentClient.CAFile},
		{"AGENT_CERT_FILE", c.AgentClient.CertFile},
		{"AGENT_KEY_FILE", c.AgentClient.KeyFile},
	})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-c.Agent.Done():
		return fmt.Errorf("the agent ended by itself: see %s", c.Agent.LogFile)
	case <-c.APIServer.Done():
		return fmt.Errorf("the API server ended by itself: see %s", c.APIServer.LogFile)
	}
}

// publish writes shell variables; no reader sees half of them.
func (s state) publish(variables [][2]string) error {
	var content strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&content, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	partial := s.variables() + ".partial"
	if err := os.WriteFile(partial, []byte(content.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, s.variables())
}
