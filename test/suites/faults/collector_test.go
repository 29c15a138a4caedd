// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

const (
	controllerManager = "kube-controller-manager"
	// collectorAttempts is how often the garbage collector is to ask for the owner
	// without an answer. Between them it waits longer each time.
	collectorAttempts = 5
)

// TestGarbageCollector: a core Secret that is owned by an HSMSecret outlives an
// outage, although the garbage collector was started in it and knows no more
// than what it is told. When the HSMSecret is deleted, so is the Secret.
func TestGarbageCollector(t *testing.T) {
	const namespace = "collector"
	createNamespace(t, namespace)
	owner := createSecret(t, namespace, "owner")
	projected := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: "projected-for-the-collector",
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "HSMSecret", Name: owner.Name, UID: owner.UID,
		}},
	}}
	created, err := core.CoreV1().Secrets(namespace).Create(t.Context(), projected, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	hsm.Agent.Kill()
	log := newLogTail(t, filepath.Join(hsm.ControlPlane.LogDir, controllerManager+".log"))
	if err := hsm.Restart(soon(t), controllerManager); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, 90*time.Second, func(context.Context) error {
		if attempts := log.count("error syncing item", string(owner.UID)); attempts < collectorAttempts {
			return fmt.Errorf("the garbage collector has looked for the owner %d times", attempts)
		}
		return nil
	})
	kept, err := core.CoreV1().Secrets(namespace).Get(t.Context(), created.Name, metav1.GetOptions{})
	if err != nil || kept.UID != created.UID || kept.DeletionTimestamp != nil {
		t.Fatalf("the garbage collector has taken an outage for the end of the owner: %v %v", kept, err)
	}

	restartAgent(t)
	served(t)
	if err := secrets.HSMSecrets(namespace).Delete(t.Context(), owner.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, 90*time.Second, func(ctx context.Context) error {
		_, err := core.CoreV1().Secrets(namespace).Get(ctx, created.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.New("the Secret is still there")
	})
	fmt.Printf("figure: collector-attempts-in-outage %d\n", collectorAttempts)
}

// logTail is what is written to a log from now on.
type logTail struct {
	t    *testing.T
	path string
	from int64
}

func newLogTail(t *testing.T, path string) logTail {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return logTail{t, path, info.Size()}
}

// count gives the number of lines that hold all of the parts.
func (l logTail) count(parts ...string) int {
	l.t.Helper()
	log, err := os.Open(l.path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	if _, err := log.Seek(l.from, io.SeekStart); err != nil {
		l.t.Fatal(err)
	}
	content, err := io.ReadAll(log)
	if err != nil {
		l.t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(content) {
		holds := true
		for _, part := range parts {
			holds = holds && strings.Contains(string(line), part)
		}
		if holds {
			n++
		}
	}
	return n
}
