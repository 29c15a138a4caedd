// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/softhsm"
)

const (
	sticks    = "sticks"
	namespace = "default"
	secret    = "database"
)

const hsmDevice = `
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMDevice
metadata: {name: sticks, namespace: hsm-system}
spec:
  deviceType: Generic
  discovery: {usb: {vendorId: f055, productId: "5057"}}
  pkcs11:
    libraryPath: LIBRARY
    pinSecret: {name: pin}
    autoProvision: true
`

const hsmSecret = `
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata: {name: database, namespace: default}
stringData: {password: VALUE}
`

// TestDevices is one story: each part begins where the one before has ended.
func TestDevices(t *testing.T) {
	ctx := t.Context()
	w := newWorld(ctx, t, "node-1", "node-2", "node-3")
	library, err := softhsm.Module()
	must(t, err)
	w.kubectl(ctx, t, pin, "create", "secret", "generic", "pin", "-n", system, "--from-file=pin=/dev/stdin")
	device := strings.ReplaceAll(hsmDevice, "LIBRARY", library)
	w.kubectl(ctx, t, device, "apply", "-f", "-")
	w.pool = sticks
	first := newStick(t, w)
	w.observe(ctx, t)

	step(t, "a token that is put in is served", func(t *testing.T) { plugIn(ctx, t, w, first) })
	step(t, "one that is taken out is unavailable, and nothing is deleted", func(t *testing.T) { takeOut(ctx, t, w, first) })
	step(t, "back in another port it is served again", func(t *testing.T) { putBack(ctx, t, w, first) })
	step(t, "another token under its name is not served", func(t *testing.T) { impostor(ctx, t, w, first) })
	step(t, "a copy on another node is not served", func(t *testing.T) { twins(ctx, t, w, first) })
	step(t, "many tokens are each in their pool, whatever happens to discovery", func(t *testing.T) { many(ctx, t, w, first, device) })
	step(t, "a node that is down takes its own tokens only", func(t *testing.T) { nodeDown(ctx, t, w) })
	step(t, "nobody lacked a right", func(t *testing.T) { rights(t, w) })
	w.observer.stop(t)
	step(t, "when all is removed the Secret stays", func(t *testing.T) { removal(ctx, t, w, first) })
}

// step runs a part of the story, which ends when one has failed.
func step(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}

func plugIn(ctx context.Context, t *testing.T, w *world, s *stick) {
	eventually(ctx, t, "discovery reports on all nodes", func(ctx context.Context) error {
		p, err := w.hsm.HsmV1alpha1().HSMPools(system).Get(ctx, w.pool, metav1.GetOptions{})
		if err == nil && len(p.Status.ReportingPods) < 4 {
			err = fmt.Errorf("%d pods report", len(p.Status.ReportingPods))
		}
		return err
	})
	began := time.Now()
	s.plug(t, w.nodes["node-1"], "1-1")
	w.write(ctx, t, "1")
	w.readable(ctx, t, "1")
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	fmt.Printf("figure: plug-to-ready-ms %d\n", time.Since(began).Milliseconds())
	w.available(ctx, t, s, true)
	eventually(ctx, t, "the Secret is projected", func(ctx context.Context) error {
		_, err := w.core.CoreV1().Secrets(namespace).Get(ctx, secret, metav1.GetOptions{})
		return err
	})
}

func takeOut(ctx context.Context, t *testing.T, w *world, s *stick) {
	projected, err := w.core.CoreV1().Secrets(namespace).Get(ctx, secret, metav1.GetOptions{})
	must(t, err)
	began := time.Now()
	s.pull(t)
	w.available(ctx, t, s, false)
	fmt.Printf("figure: unplug-to-unavailable-ms %d\n", time.Since(began).Milliseconds())
	w.unavailable(ctx, t, "token")
	after, err := w.core.CoreV1().Secrets(namespace).Get(ctx, secret, metav1.GetOptions{})
	if err != nil || after.UID != projected.UID || string(after.Data["password"]) != "1" {
		t.Errorf("the projected Secret: %v", err)
	}
	deployments, err := w.core.AppsV1().Deployments(system).List(ctx, metav1.ListOptions{LabelSelector: "hsm.j5t.io/agent"})
	if err != nil || len(deployments.Items) != 1 {
		t.Errorf("%d agents are deployed, want that of the token for the grace period: %v", len(deployments.Items), err)
	}
}

func putBack(ctx context.Context, t *testing.T, w *world, s *stick) {
	began := time.Now()
	s.plug(t, w.nodes["node-1"], "1-2.3")
	w.readable(ctx, t, "1")
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	fmt.Printf("figure: replug-to-ready-ms %d\n", time.Since(began).Milliseconds())
}

// impostor puts another token of the same model into a stick that says that it is the first.
func impostor(ctx context.Context, t *testing.T, w *world, s *stick) {
	s.pull(t)
	w.available(ctx, t, s, false)
	other := newStick(t, w)
	other.usbSerial = s.usbSerial
	other.plug(t, w.nodes["node-1"], "1-1")
	w.available(ctx, t, s, true) // The kernel tells no difference.
	eventually(ctx, t, "its agent says that the token is not there", func(ctx context.Context) error {
		state, err := w.state(ctx, s.Serial)
		if err == nil && state != "TokenAbsent" {
			err = fmt.Errorf("the member is in state %q", state)
		}
		return err
	})
	w.unavailable(ctx, t, s.Serial)
	if w.inPhaseNow(ctx, t) == v1alpha1.PoolPhaseReady {
		t.Error("the pool is Ready with a token that is not its own")
	}
	other.pull(t)
	w.available(ctx, t, s, false)
	s.plug(t, w.nodes["node-1"], "1-1")
	w.readable(ctx, t, "1")
}

// twins puts a copy of the token, with an older state of the store, into another node.
func twins(ctx context.Context, t *testing.T, w *world, s *stick) {
	s.pull(t)
	w.available(ctx, t, s, false)
	twin := s.clone(t)
	s.plug(t, w.nodes["node-1"], "1-1")
	w.readable(ctx, t, "1")
	w.write(ctx, t, "2")
	w.readable(ctx, t, "2")
	twin.plug(t, w.nodes["node-2"], "1-1")
	eventually(ctx, t, "the pool reports it", func(ctx context.Context) error {
		p, err := w.hsm.HsmV1alpha1().HSMPools(system).Get(ctx, w.pool, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, device := range p.Status.AggregatedDevices {
			if device.NodeName == "node-2" && device.Reason == "SerialAmbiguous" {
				return nil
			}
		}
		return fmt.Errorf("devices %v", p.Status.AggregatedDevices)
	})
	// The observer wants the newer state, or none.
	w.observeMore(ctx, t, 100)
	twin.pull(t)
	w.readable(ctx, t, "2")
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
}

func nodeDown(ctx context.Context, t *testing.T, w *world) {
	w.kubectl(ctx, t, "", "patch", "hsmpool", w.pool, "-n", system, "--type=merge", "-p", `{"spec":{"gracePeriod":"15s"}}`)
	second := newStick(t, w)
	second.plug(t, w.nodes["node-2"], "1-1")
	w.available(ctx, t, second, true)
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	w.cut("node-2")
	reads, done := 0, make(chan error, 1)
	watching, stop := context.WithCancel(ctx)
	go func() {
		for watching.Err() == nil {
			if _, err := w.hsm.HsmV1alpha1().HSMSecrets(namespace).Get(watching, secret, metav1.GetOptions{}); err != nil {
				done <- err
				return
			}
			reads++
		}
		done <- nil
	}()
	took := w.available(ctx, t, second, false)
	w.inPhase(ctx, t, v1alpha1.PoolPhasePartial)
	stop()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("a read of the healthy token failed: %v", err)
	}
	t.Logf("%d reads of the healthy token; the other was unavailable after %s", reads, took)
	w.powerUp(ctx, t, "node-2")
	w.available(ctx, t, second, true)
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
}

// rights searches the logs of our processes for what they were refused.
func rights(t *testing.T, w *world) {
	found := map[string]bool{}
	for _, n := range w.nodes {
		logs, err := filepath.Glob(filepath.Join(n.Dir, "logs", "*"))
		must(t, err)
		for _, log := range logs {
			container := strings.TrimSuffix(log[strings.LastIndex(log, "_")+1:], ".log")
			found[container] = true
			for _, line := range linesWith(t, log, "forbidden", "Forbidden", "cannot list", "cannot watch") {
				t.Errorf("%s: %s", container, line)
			}
		}
	}
	for _, container := range []string{"apiserver", "controller", "discovery", "agent"} {
		if !found[container] {
			t.Errorf("there is no log of %s: the search proves nothing", container)
		}
	}
}

func (w *world) write(ctx context.Context, t *testing.T, value string) {
	t.Helper()
	defer w.observer.during(value)()
	eventually(ctx, t, "a secret can be written", func(ctx context.Context) error {
		_, err := w.try(ctx, strings.ReplaceAll(hsmSecret, "VALUE", `"`+value+`"`), "apply", "--server-side", "-f", "-")
		return err
	})
}

func (w *world) readable(ctx context.Context, t *testing.T, value string) {
	t.Helper()
	eventually(ctx, t, "the secret can be read", func(ctx context.Context) error {
		got, err := w.try(ctx, "", "get", "hsmsecret", secret, "-n", namespace, "--template={{.data.password | base64decode}}")
		if err == nil && got != value {
			t.Fatalf("the value is %q, want %q", got, value)
		}
		return err
	})
}

// unavailable wants 503 with a reason that names the token, and never 404.
func (w *world) unavailable(ctx context.Context, t *testing.T, reason string) {
	t.Helper()
	eventually(ctx, t, "reads are answered with 503", func(ctx context.Context) error {
		_, err := w.hsm.HsmV1alpha1().HSMSecrets(namespace).Get(ctx, secret, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			t.Fatalf("a token that is away is no 404: %v", err)
		}
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != http.StatusServiceUnavailable {
			return fmt.Errorf("the answer is %w", err)
		}
		if message := status.Status().Message; !strings.Contains(message, reason) {
			return fmt.Errorf("the reason is %s", message)
		}
		t.Log(status.Status().Message)
		return nil
	})
}

// available waits until the pool says that a token is there, or is not.
func (w *world) available(ctx context.Context, t *testing.T, s *stick, want bool) time.Duration {
	t.Helper()
	return eventually(ctx, t, fmt.Sprintf("token %s is available: %t", s.usbSerial, want), func(ctx context.Context) error {
		p, err := w.hsm.HsmV1alpha1().HSMPools(system).Get(ctx, w.pool, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, device := range p.Status.AggregatedDevices {
			if device.SerialNumber == s.usbSerial && device.Available == want {
				return nil
			}
		}
		return fmt.Errorf("devices %v", p.Status.AggregatedDevices)
	})
}

func (w *world) state(ctx context.Context, serial string) (string, error) {
	p, err := w.hsm.HsmV1alpha1().HSMPools(system).Get(ctx, w.pool, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, member := range p.Status.Members {
		if member.SerialNumber == serial {
			return string(member.State), nil
		}
	}
	return "", fmt.Errorf("no member %s", serial)
}

func (w *world) inPhase(ctx context.Context, t *testing.T, want v1alpha1.PoolPhase) {
	t.Helper()
	eventually(ctx, t, "the pool is "+string(want), func(ctx context.Context) error {
		p, err := w.hsm.HsmV1alpha1().HSMPools(system).Get(ctx, w.pool, metav1.GetOptions{})
		if err == nil && p.Status.Phase != want {
			err = fmt.Errorf("it is %s: %v", p.Status.Phase, p.Status.Conditions)
		}
		return err
	})
}

func (w *world) inPhaseNow(ctx context.Context, t *testing.T) v1alpha1.PoolPhase {
	t.Helper()
	p, err := w.hsm.HsmV1alpha1().HSMPools(system).Get(ctx, w.pool, metav1.GetOptions{})
	must(t, err)
	return p.Status.Phase
}
