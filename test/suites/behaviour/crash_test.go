// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// TestCrash kills the controller with SIGKILL at each request of a back-sync in
// turn: before it is sent, and after it was carried out but before its answer
// arrives. After the next start the edit is on the token, was written there
// once, and nothing goes on. In a second run, the Secret is edited again while
// the controller is dead: the later edit wins, and none is called a conflict.
func TestCrash(t *testing.T) {
	points := 0
	for _, again := range []bool{false, true} {
		for _, answered := range []bool{false, true} {
			for n := 1; ; n++ {
				name := fmt.Sprintf("request %d, carried out %t, edited again %t", n, answered, again)
				reached := false
				if !t.Run(name, func(t *testing.T) { reached = crashAt(t, n, answered, again) }) {
					return
				}
				if !reached {
					// The back-sync has fewer requests.
					break
				}
				points++
			}
		}
	}
	fmt.Printf("figure: backsync-crash-points %d\n", points)
}

// crashAt kills the controller at the nth request that follows the edit. It
// reports whether there were so many.
func crashAt(t *testing.T, n int, carriedOut, again bool) bool {
	namespace := newNamespace(t)
	deployment := createDeployment(t, namespace, "web")
	h := &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec:       v1alpha1.HSMSecretSpec{RolloutRestartTargets: []v1alpha1.RolloutRestartTarget{{Kind: v1alpha1.WorkloadKindDeployment, Name: "web"}}},
		Data:       states["v1"],
	}
	if _, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Create(t.Context(), h, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitSynced(t, namespace, 1, time.Minute)
	calls := func() int { return projector.proxy.count(func(c call) bool { return c.namespace == namespace }) }
	settled(t, calls)
	_, writesBefore := tokenCalls(t, namespace)

	dead := make(chan call, 1)
	var mu sync.Mutex
	seen := 0
	projector.proxy.interrupt(func(c call, w http.ResponseWriter, r *http.Request, forward http.Handler) {
		mu.Lock()
		defer mu.Unlock()
		if c.namespace != namespace || c.resource == "events" || c.method == "WATCH" || c.method == "LIST" {
			mu.Unlock()
			forward.ServeHTTP(w, r)
			mu.Lock()
			return
		}
		seen++
		if seen != n {
			forward.ServeHTTP(w, r)
			return
		}
		if carriedOut {
			forward.ServeHTTP(httptest.NewRecorder(), r)
		}
		projector.Kill()
		dead <- c
	})
	defer projector.proxy.interrupt(nil)

	c := cell{t, config{auto: true, both: true}, namespace, "db"}
	c.edit(states["s2"])
	finally := "s2"
	reached := false
	// Where there are fewer requests than n, all is done.
	settledWith(t, calls, func() bool {
		select {
		case at := <-dead:
			t.Logf("killed at %s", at)
			reached = true
		default:
		}
		return reached || backSynced(t, namespace, deployment.Generation)
	})
	if reached {
		projector.proxy.interrupt(nil)
		if again {
			c.edit(states["t2"])
			finally = "t2"
		}
		if err := projector.restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.check("in the end", time.Minute, want(finally+" "+finally+" InSync NoConflict"))
	settled(t, calls)

	_, writes := tokenCalls(t, namespace)
	writes -= writesBefore
	most := 1
	if reached && again {
		most = 2
	}
	if writes < 1 || writes > most {
		t.Errorf("the token was written %d times, want at most %d", writes, most)
	}
	events, err := core.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Conflict"})
	if err != nil {
		t.Fatal(err)
	}
	if len(events.Items) > 0 {
		t.Errorf("an edit was called a conflict: %s", events.Items[0].Message)
	}
	// Restarted for what is there, and at most once for each edit.
	got, err := core.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret := c.secret("db")
	if sum := got.Spec.Template.Annotations["content.hsm.j5t.io/db"]; sum != secret.Annotations["hsm.j5t.io/checksum"] {
		t.Errorf("the workload was restarted for %q, the data is %q", sum, secret.Annotations["hsm.j5t.io/checksum"])
	}
	if restarts := got.Generation - deployment.Generation; restarts < 1 || restarts > int64(most) {
		t.Errorf("%d restarts, want at most %d", restarts, most)
	}
	if pending := secret.Annotations["hsm.j5t.io/restart"]; pending != "" {
		t.Errorf("a restart is still noted as %s", pending)
	}
	return reached
}

// stateOn is the state of the data on the token.
func stateOn(t *testing.T, namespace string) string {
	h, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), "db", metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	return stateOf(h.Data)
}

// backSynced says whether all that follows an edit is done: the token has it, the
// workload was restarted for it, and the note that it is to be is gone.
func backSynced(t *testing.T, namespace string, generation int64) bool {
	t.Helper()
	if stateOn(t, namespace) != "s2" {
		return false
	}
	secret, err := core.CoreV1().Secrets(namespace).Get(t.Context(), "db", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deployment, err := core.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return deployment.Generation > generation && secret.Annotations["hsm.j5t.io/restart"] == ""
}

// settleTime is how long nothing happens, at least, when all is done.
const settleTime = 700 * time.Millisecond

// settled waits until a count has not changed for as long as quietTime says.
func settled(t *testing.T, count func() int) {
	t.Helper()
	settledWith(t, count, func() bool { return true })
}

func settledWith(t *testing.T, count func() int, also func() bool) {
	t.Helper()
	last, since := count(), time.Now()
	await.NoError(t, 60*time.Second, func(context.Context) error {
		if now := count(); now != last || !also() {
			last, since = now, time.Now()
		}
		if time.Since(since) < projector.proxy.quietTime(settleTime) {
			return errors.New("it goes on")
		}
		return nil
	})
}

// createDeployment creates one without pods.
func createDeployment(t *testing.T, namespace, name string) *appsv1.Deployment {
	t.Helper()
	labels := map[string]string{"app": name}
	deployment, err := core.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(0)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: podTemplate(labels),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return deployment
}

func podTemplate(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
	}
}
