// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// TestWorkloads has workloads restarted for each new content, and for nothing
// else: not for the first, not for an edit that was reverted, not for the old
// content, not because a controller was started.
func TestWorkloads(t *testing.T) {
	namespace := newNamespace(t)
	createDeployment(t, namespace, "web")
	labels := map[string]string{"app": "web"}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	if _, err := core.AppsV1().StatefulSets(namespace).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.StatefulSetSpec{Replicas: new(int32(0)), Selector: selector, Template: podTemplate(labels)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.AppsV1().DaemonSets(namespace).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DaemonSetSpec{Selector: selector, Template: podTemplate(labels)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// generations says how often each was changed.
	generations := func() [3]int64 {
		deployment, err := core.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		statefulSet, err := core.AppsV1().StatefulSets(namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		daemonSet, err := core.AppsV1().DaemonSets(namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return [3]int64{deployment.Generation, statefulSet.Generation, daemonSet.Generation}
	}
	calls := func() int { return projector.proxy.count(func(c call) bool { return c.namespace == namespace }) }
	first := generations()
	restarts := int64(0)
	check := func(what string) {
		t.Helper()
		settled(t, calls)
		await.NoError(t, time.Minute, func(context.Context) error {
			for i, generation := range generations() {
				if got := generation - first[i]; got != restarts {
					return fmt.Errorf("%s: workload %d was restarted %d times, want %d", what, i, got, restarts)
				}
			}
			return nil
		})
	}

	c := cell{t, config{auto: true}, namespace, "db"} // One way.
	_, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Create(t.Context(), &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: v1alpha1.HSMSecretSpec{
			SyncDirection: v1alpha1.SyncDirectionHSMToSecret,
			RolloutRestartTargets: []v1alpha1.RolloutRestartTarget{
				{Kind: v1alpha1.WorkloadKindDeployment, Name: "missing"},
				{Kind: v1alpha1.WorkloadKindDeployment, Name: "web"},
				{Kind: v1alpha1.WorkloadKindStatefulSet, Name: "web"},
				{Kind: v1alpha1.WorkloadKindDaemonSet, Name: "web"},
			},
		},
		Data: states["v1"],
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.check("at first", time.Minute, inStep)
	check("made")

	c.changeToken()
	c.check("changed", time.Minute, "t2 t2 InSync NoConflict")
	restarts++
	check("token changed")
	event(t, namespace, "HSMSecret", "db", "RestartFailed")
	event(t, namespace, "Secret", "db", "Restarted")

	c.editSecret()
	c.await(time.Minute, func() error {
		if state := stateOf(c.secret("db").Data); state != "t2" {
			return fmt.Errorf("the Secret is %s", state)
		}
		return nil
	})
	check("edit reverted")

	projector.Kill()
	if err := projector.restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := calls()
	c.await(time.Minute, func() error {
		if calls() == before {
			return fmt.Errorf("the controller has not begun")
		}
		return nil
	})
	check("controller restarted")

	c.deleteSecret()
	c.check("deleted", time.Minute, "t2 t2 InSync NoConflict")
	check("Secret made again")

	// While nobody looks, the Secret is deleted and the token changed.
	projector.Kill()
	c.deleteSecret()
	c.update(func(h *v1alpha1.HSMSecret) { h.Data = states["v1"] })
	if err := projector.restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.check("deleted and changed", time.Minute, inStep)
	restarts++
	check("token changed meanwhile")
}

// event waits for an event on an object.
func event(t testing.TB, namespace, kind, name, reason string) {
	t.Helper()
	await.NoError(t, time.Minute, func(context.Context) error {
		events, err := core.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{
			FieldSelector: "reason=" + reason + ",involvedObject.kind=" + kind + ",involvedObject.name=" + name,
		})
		if err != nil {
			return err
		}
		if len(events.Items) == 0 {
			return fmt.Errorf("there is no event %s on %s %s", reason, kind, name)
		}
		return nil
	})
}
