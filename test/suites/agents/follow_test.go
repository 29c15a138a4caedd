// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"j5t.io/hsm/pkg/storage/configmap"
	storage "j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
)

// TestNoPoolHasAnAgent is of a cluster into which nobody has plugged a token: all
// that needs none works, the rest says what is missing.
func TestNoPoolHasAnAgent(t *testing.T) {
	members(t)
	await.NoError(t, patience, func(context.Context) error {
		err := read(t)
		if apierrors.HasStatusCause(err, storage.CauseNoAgent) {
			return nil
		}
		return err
	})
	if err := read(t); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "no HSMPool has an agent: plug in a token") {
		t.Errorf("want 503 that says what to do, got %v", err)
	}
	if code, body := ask(t, direct(t, ""), "/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if _, err := client.HSMPools(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

// TestPoolMovesItsAgent is of an agent that is to be reached at another address,
// while it can still be reached at the one before. Nobody is told a lie, nobody waits.
func TestPoolMovesItsAgent(t *testing.T) {
	begin(t)
	for _, to := range []string{forward(t, hsm.AgentAddress), forward(t, hsm.AgentAddress), hsm.AgentAddress} {
		list, err := client.HSMSecrets("default").List(t.Context(), metav1.ListOptions{})
		must(t, err)
		events, err := client.HSMSecrets("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		must(t, err)
		written := members(t, member(hsm.Token.Serial, to))
		select {
		case e := <-events.ResultChan():
			// As when a connection is lost: who watches lists anew.
			if err := apierrors.FromObject(e.Object); e.Type != watch.Error || !apierrors.IsServiceUnavailable(err) {
				t.Errorf("watch: want ERROR 503, got %v", e)
			}
			t.Logf("followed %s after the status was written", time.Since(written))
		case <-time.After(await.Limit(patience)):
			t.Fatal("the watch on the address before goes on")
		}
		events.Stop()
		if err := read(t); err != nil {
			t.Errorf("read: %v", err)
		}
		_, body := ask(t, monitoring(t), "/metrics")
		if n := strings.Count(body, "\nhsm_agent_connected{"); n != 1 || !strings.Contains(body, `hsm_agent_connected{address="`+to+`",serial="`+hsm.Token.Serial+`"} 1`) {
			t.Errorf("%d series; %s is not told to be connected", n, to)
		}
	}
}

// TestAgentIsStartedElsewhere is of one that has ended and runs at another address.
func TestAgentIsStartedElsewhere(t *testing.T) {
	begin(t)
	list, err := client.HSMSecrets("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	events, err := client.HSMSecrets("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	must(t, err)
	defer events.Stop()
	hsm.Agent.Kill()
	select {
	case e := <-events.ResultChan():
		if err := apierrors.FromObject(e.Object); e.Type != watch.Error || !apierrors.IsServiceUnavailable(err) {
			t.Errorf("watch: want ERROR 503, got %v", e)
		}
	case <-time.After(await.Limit(patience)):
		t.Error("the watch does not end although the agent is gone")
	}
	if err := read(t); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("want 503, got %v", err)
	}
	hsm.AgentAddress = freeAddress(t)
	must(t, hsm.StartAgent(t.Context()))
	written := members(t, member(hsm.Token.Serial, hsm.AgentAddress))
	served(t)
	t.Logf("served %s after the status was written", time.Since(written))
}

// TestServerStarts has it know the agents when it is ready.
func TestServerStarts(t *testing.T) {
	begin(t)
	hsm.APIServer.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit(time.Minute))
	defer cancel()
	must(t, hsm.StartAPIServer(ctx))
	code, body := ask(t, monitoring(t), "/readyz/agents")
	if want := "[+]agent " + hsm.AgentAddress + " of token " + hsm.Token.Serial + ": serves the store\n"; code != 200 || body != want {
		t.Errorf("agents: %d %s, want %s", code, body, want)
	}
	served(t)
}

// TestPoolsCannotBeRead is of a server that starts while something is wrong with
// one of them: its other kinds are served, and as soon as it is mended, all.
func TestPoolsCannotBeRead(t *testing.T) {
	begin(t)
	configMaps := host.CoreV1().ConfigMaps(cluster.SystemNamespace)
	wrong := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "by-hand", Labels: map[string]string{configmap.ResourceLabel: "hsmpools"}}}
	_, err := configMaps.Create(t.Context(), wrong, metav1.CreateOptions{})
	must(t, err)
	hsm.APIServer.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit(time.Minute))
	defer cancel()
	must(t, hsm.StartAPIServer(ctx))
	if _, err := client.HSMDevices(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if err := read(t); !apierrors.HasStatusCause(err, storage.CauseNoAgent) || !strings.Contains(err.Error(), "have not been read yet") {
		t.Errorf("want 503 NO_AGENT, got %v", err)
	}
	mended := time.Now()
	must(t, configMaps.Delete(t.Context(), wrong.Name, metav1.DeleteOptions{}))
	served(t)
	t.Logf("served %s after it was mended", time.Since(mended))
}

// TestPoolsAreReadAsFastAsAsked is of many pools that are looked after at once. No read
// waits for client-go's limit of 5 requests a second, which says so in the log.
func TestPoolsAreReadAsFastAsAsked(t *testing.T) {
	file := hsm.APIServer.LogFile
	before, err := os.Stat(file)
	must(t, err)
	for range 100 {
		_, err := client.HSMPools(cluster.SystemNamespace).Get(t.Context(), "pico", metav1.GetOptions{})
		must(t, err)
	}
	log, err := os.ReadFile(file)
	must(t, err)
	if n := bytes.Count(log[before.Size():], []byte("client-side throttling")); n > 0 {
		t.Errorf("%d of 100 reads of an HSMPool waited for the limit of the client", n)
	}
}
