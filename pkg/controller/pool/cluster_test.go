// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/suite"
)

const (
	system    = "hsm-system"
	discovery = "hsm-discovery"
)

// rig is the product with a real controller, and discovery pods that only the test
// writes to.
type rig struct {
	*cluster.Cluster
	core       kubernetes.Interface
	hsm        versioned.Interface
	agents     *pki.CA
	controller *process.Process
	owner      metav1.OwnerReference
	seen       *history
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ctx := t.Context()
	product := suite.StartCluster(t, cluster.Options{})
	r := &rig{Cluster: product}
	var err error
	r.core, err = kubernetes.NewForConfig(product.Admin)
	must(t, err)
	r.hsm, err = versioned.NewForConfig(product.Admin)
	must(t, err)
	r.agents, _ = product.Authorities()
	for _, manifest := range []string{"controller.yaml", "controller-cluster-rbac.yaml", "discovery.yaml"} {
		r.kubectl(t, "apply", "--filename="+product.Manifest(manifest))
	}
	daemonSet, err := r.core.AppsV1().DaemonSets(system).Get(ctx, discovery, metav1.GetOptions{})
	must(t, err)
	r.owner = *metav1.NewControllerRef(daemonSet, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))
	r.expect(t, 0)
	r.seen = r.watch(t)
	r.startController(t)
	return r
}

func (r *rig) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, _, err := r.Kubectl(r.AdminKubeconfig).Run(t.Context(), args...)
	must(t, err)
	return out
}

// startController starts it with the rights of its ServiceAccount, and no more.
func (r *rig) startController(t *testing.T) {
	t.Helper()
	kubeconfig, err := r.AddServiceAccount(system, "hsm-controller")
	must(t, err)
	binary, err := assets.Own(t.Context(), os.Stderr, "controller")
	must(t, err)
	port, err := process.FreePort()
	must(t, err)
	cert, key, err := r.agents.Issue("hsm-controller", pki.Client)
	must(t, err)
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	r.controller, err = process.Start(t.Context(), process.Spec{
		Name: "controller", Path: binary, LogFile: filepath.Join(r.LogDir(), "controller.log"),
		Env: []string{"GOGC="}, // Its memory is measured.
		Args: []string{
			"--kubeconfig=" + kubeconfig, "--system-namespace=" + system, fmt.Sprintf("--listen-address=127.0.0.1:%d", port),
			"--leader-elect=false", "--agent-ca-file=" + r.agents.CertFile, "--agent-cert-file=" + cert, "--agent-key-file=" + key, "-v=2",
		},
		Ready: func(ctx context.Context) error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", http.NoBody)
			if err != nil {
				return err
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			return response.Body.Close()
		},
	})
	must(t, err)
	t.Cleanup(func() {
		r.controller.Kill()
		if t.Failed() {
			log, _ := os.ReadFile(r.controller.LogFile)
			t.Logf("end of the controller's log:\n%s", log[max(0, len(log)-8000):])
		}
	})
}

// residentKiB is the memory of the controller.
func (r *rig) residentKiB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.controller.PID()))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return kib
}

// expect says on how many nodes discovery is to run.
func (r *rig) expect(t *testing.T, nodes int) {
	t.Helper()
	patch := fmt.Sprintf(`{"status":{"desiredNumberScheduled":%d,"currentNumberScheduled":0,"numberMisscheduled":0,"numberReady":0}}`, nodes)
	_, err := r.core.AppsV1().DaemonSets(system).Patch(t.Context(), discovery, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	must(t, err)
}

// createPod makes a discovery pod as the DaemonSet does, changed as a test wants it.
func (r *rig) createPod(t *testing.T, name, node string, change ...func(*corev1.Pod)) {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": discovery}, OwnerReferences: []metav1.OwnerReference{r.owner}},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: discovery, Containers: []corev1.Container{{Name: "discovery", Image: discovery}}},
	}
	for _, c := range change {
		c(pod)
	}
	if _, err := r.core.CoreV1().ServiceAccounts(system).Get(t.Context(), pod.Spec.ServiceAccountName, metav1.GetOptions{}); err != nil {
		must(t, err)
	}
	_, err := r.core.CoreV1().Pods(system).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
}

func (r *rig) deletePod(t *testing.T, name string) {
	t.Helper()
	must(t, r.core.CoreV1().Pods(system).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
}

// found is what a node reports of an HSMDevice.
func found(device, node string, serials ...string) report.Entry {
	entry := report.Entry{
		HSMDeviceNamespace: system, HSMDeviceName: device, ObservedGeneration: 1, ReportingNode: node, NodeSelected: true,
		LastReportTime: report.Time(time.Now()), DiscoveryStatus: v1alpha1.DiscoveryStatusCompleted, DiscoveredDevices: []report.Device{},
	}
	for i, serial := range serials {
		entry.DiscoveredDevices = append(entry.DiscoveredDevices, report.Device{
			SerialNumber: serial, DevicePath: fmt.Sprintf("/dev/bus/usb/001/%03d", i+2), LastSeen: entry.LastReportTime,
		})
	}
	return entry
}

func (r *rig) report(t *testing.T, pod string, entries ...report.Entry) {
	t.Helper()
	value, err := report.Encode(entries)
	must(t, err)
	r.annotate(t, pod, value)
}

func (r *rig) annotate(t *testing.T, pod, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, report.Annotation, value)
	_, err := r.core.CoreV1().Pods(system).Patch(t.Context(), pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
}

func (r *rig) createDevice(t *testing.T, name string, change ...func(*v1alpha1.HSMDevice)) {
	t.Helper()
	device := &v1alpha1.HSMDevice{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.HSMDeviceSpec{DeviceType: v1alpha1.DeviceTypePicoHSM, Discovery: &v1alpha1.Discovery{AutoDiscovery: true}},
	}
	for _, c := range change {
		c(device)
	}
	_, err := r.hsm.HsmV1alpha1().HSMDevices(system).Create(t.Context(), device, metav1.CreateOptions{})
	must(t, err)
}

// clean removes what a subtest has made.
func (r *rig) clean(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	zero := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	must(t, r.core.CoreV1().Pods(system).DeleteCollection(ctx, zero, metav1.ListOptions{}))
	must(t, r.hsm.HsmV1alpha1().HSMDevices(system).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	await.NoError(t, time.Minute, func(context.Context) error {
		// There is no garbage collector.
		if err := r.hsm.HsmV1alpha1().HSMPools(system).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			return err
		}
		list, err := r.hsm.HsmV1alpha1().HSMPools(system).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = errors.New("there are pools")
		}
		return err
	})
	r.expect(t, 0)
}

// history is every version of every pool that a watch has shown.
type history struct {
	mu       sync.Mutex
	versions map[string][]*v1alpha1.HSMPool
}

func (r *rig) watch(t *testing.T) *history {
	t.Helper()
	h := &history{versions: map[string][]*v1alpha1.HSMPool{}}
	w, err := r.hsm.HsmV1alpha1().HSMPools(system).Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range w.ResultChan() {
			if pool, ok := event.Object.(*v1alpha1.HSMPool); ok {
				h.mu.Lock()
				h.versions[pool.Name] = append(h.versions[pool.Name], pool)
				h.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		w.Stop()
		<-done
	})
	return h
}

// of are the versions of a pool from one on.
func (h *history) of(pool string, from int) []*v1alpha1.HSMPool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.versions[pool][from:]
}

func (h *history) count(pool string) int { return len(h.of(pool, 0)) }

// last is the newest version; an empty one if there is none.
func (h *history) last(pool string) *v1alpha1.HSMPool {
	if versions := h.of(pool, 0); len(versions) > 0 {
		return versions[len(versions)-1]
	}
	return &v1alpha1.HSMPool{}
}

// want waits until a pool is "PHASE AVAILABLE/TOTAL REPORTING/EXPECTED".
func (r *rig) want(t *testing.T, pool, want string) *v1alpha1.HSMPool {
	t.Helper()
	await.NoError(t, time.Minute, func(context.Context) error {
		if got := summary(r.seen.last(pool)); got != want {
			return fmt.Errorf("pool %s is %s, want %s", pool, got, want)
		}
		return nil
	})
	return r.seen.last(pool)
}

func summary(pool *v1alpha1.HSMPool) string {
	fresh := 0
	for _, pod := range pool.Status.ReportingPods {
		if pod.Fresh {
			fresh++
		}
	}
	s := &pool.Status
	return fmt.Sprintf("%s %d/%d %d/%d", s.Phase, s.AvailableDevices, s.TotalDevices, fresh, s.ExpectedPods)
}

// hasEvent waits for an event about an object.
func (r *rig) hasEvent(t *testing.T, object, reason, text string) {
	t.Helper()
	await.NoError(t, time.Minute, func(context.Context) error {
		list, err := r.core.CoreV1().Events(system).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + object + ",reason=" + reason})
		if err != nil {
			return err
		}
		var messages []string
		for i := range list.Items {
			if strings.Contains(list.Items[i].Message, text) {
				return nil
			}
			messages = append(messages, list.Items[i].Message)
		}
		return fmt.Errorf("no event %s of %s tells of %q: %q", reason, object, text, messages)
	})
}
