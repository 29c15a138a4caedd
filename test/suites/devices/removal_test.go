// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/test/framework/product"
)

const (
	controllerManager = "kube-controller-manager"
	// collectorAttempts is how often the garbage collector is to ask for the owner without an answer.
	collectorAttempts = 3
	// collectorSync is more than the time in which it notices that a kind is gone.
	collectorSync = 40 * time.Second
)

// removal takes the product away as docs/installation.md says, at the worst time: the token
// is away, and the garbage collector was started since, so that it asks for the owners of
// projected Secrets again and again.
func removal(ctx context.Context, t *testing.T, w *world, s *stick) {
	s.pull(t)
	w.available(ctx, t, s, false)
	must(t, w.Restart(ctx, controllerManager))
	eventually(ctx, t, "the garbage collector asks for the owner", func(context.Context) error {
		if asked := w.collectorErrors(t, "HSMSecret"); asked < collectorAttempts {
			return fmt.Errorf("it has asked %d times", asked)
		}
		return nil
	})

	w.kubectl(ctx, t, "", "delete", "deployment", "hsm-controller", "--namespace="+system)
	w.noPods(ctx, t, "app.kubernetes.io/name=hsm-controller")
	projected, err := w.core.CoreV1().Secrets("").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=hsm-controller"})
	must(t, err)
	found := false
	for _, object := range projected.Items {
		found = found || object.Namespace == namespace && object.Name == secret
		_, err := w.core.CoreV1().Secrets(object.Namespace).Patch(ctx, object.Name, types.MergePatchType,
			[]byte(`{"metadata":{"ownerReferences":null}}`), metav1.PatchOptions{})
		must(t, err)
	}
	if !found {
		t.Fatalf("the projected Secret is not among those that the label names: %d", len(projected.Items))
	}
	w.kubectl(ctx, t, "", "delete", "apiservice", "v1alpha1.hsm.j5t.io")
	removed := time.Now()
	w.kubectl(ctx, t, "", "delete", "deployments", "--namespace="+system, "--selector=hsm.j5t.io/agent")
	w.noPods(ctx, t, "hsm.j5t.io/agent")
	w.kubectl(ctx, t, w.manifests(ctx, t, product.Base), "delete", "--ignore-not-found", "--wait=false", "-f", "-")
	eventually(ctx, t, "the namespace is gone", func(ctx context.Context) error {
		_, err := w.core.CoreV1().Namespaces().Get(ctx, system, metav1.GetOptions{})
		if err == nil {
			err = errors.New("it is there")
		} else if apierrors.IsNotFound(err) {
			err = nil
		}
		return err
	})
	eventually(ctx, t, "the garbage collector has had its time, and the Secret is there", func(ctx context.Context) error {
		if _, err := w.core.CoreV1().Secrets(namespace).Get(ctx, secret, metav1.GetOptions{}); err != nil {
			t.Fatalf("the projected Secret: %v", err)
		}
		if left := collectorSync - time.Since(removed); left > 0 {
			return fmt.Errorf("%s to go", left)
		}
		return nil
	})
}

func (w *world) noPods(ctx context.Context, t *testing.T, selector string) {
	t.Helper()
	eventually(ctx, t, "there are no pods with "+selector, func(ctx context.Context) error {
		pods, err := w.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods", len(pods.Items))
		}
		return err
	})
}

// collectorErrors counts what the garbage collector could not find out of a kind.
func (w *world) collectorErrors(t *testing.T, kind string) int {
	t.Helper()
	count := 0
	for _, line := range linesWith(t, filepath.Join(w.LogDir, controllerManager+".log"), "error syncing item") {
		if strings.Contains(line, kind) {
			count++
		}
	}
	return count
}
