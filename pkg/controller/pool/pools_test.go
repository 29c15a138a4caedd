// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
)

// TestPools runs the real controller, with the rights of its manifests, against the
// real API servers. Each part has HSMDevices of its own: what the pods of an earlier
// one have reported counts for its gracePeriod.
func TestPools(t *testing.T) {
	r := newRig(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rig)
	}{
		{"Made", testMade},
		{"Replaced", testReplaced},
		{"Idle", testIdle},
		{"Unplugged", testUnplugged},
		{"NodeDown", testNodeDown},
		{"Hostile", testHostile},
		{"AtOnce", testAtOnce},
		{"Agents", testAgents},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, r) }) {
			return
		}
		r.clean(t)
	}
}

// testMade: a pool for each HSMDevice, owned by it; its spec is the user's; a pool of
// others stays theirs.
func testMade(t *testing.T, r *rig) {
	pools := r.hsm.HsmV1alpha1().HSMPools(system)
	_, err := pools.Create(t.Context(), &v1alpha1.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Spec: v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{"theirs"}},
	}, metav1.CreateOptions{})
	must(t, err)
	r.createDevice(t, "theirs")
	r.createDevice(t, "pico", func(d *v1alpha1.HSMDevice) {
		d.Spec.Mirroring = &v1alpha1.DeviceMirroring{Policy: v1alpha1.MirroringPolicyActive}
	})
	pool := r.want(t, "pico", "Pending 0/0 0/0")
	owner := metav1.GetControllerOf(pool)
	if owner == nil || owner.Kind != "HSMDevice" || owner.Name != "pico" || !slices.Equal(pool.Spec.HSMDeviceRefs, []string{"pico"}) || pool.Spec.Mirroring == nil || !pool.Spec.Mirroring.Enabled {
		t.Errorf("the pool is %+v of %+v", pool.Spec, owner)
	}
	r.hasEvent(t, "theirs", "NotOwned", "not taken over")
	theirs := r.want(t, "theirs", "Pending 0/0 0/0")
	if len(theirs.OwnerReferences) > 0 {
		t.Errorf("the pool of others got an owner: %+v", theirs.OwnerReferences)
	}

	// A user's spec stays, and is honoured.
	_, err = pools.Patch(t.Context(), "pico", types.MergePatchType, []byte(`{"spec":{"gracePeriod":"1m","hsmDeviceRefs":["pico","theirs"]}}`), metav1.PatchOptions{})
	must(t, err)
	r.expect(t, 1)
	r.createPod(t, "d-1", "node-1")
	r.report(t, "d-1", found("pico", "node-1", "A"), found("theirs", "node-1", "B"))
	pool = r.want(t, "pico", "Ready 2/2 1/1")
	if pool.Spec.GracePeriod.Duration != time.Minute || len(pool.Spec.HSMDeviceRefs) != 2 {
		t.Errorf("the spec is %+v", pool.Spec)
	}
	r.kubectl(t, "wait", "--namespace="+system, "--for=condition=Ready", "--timeout=10m", "hsmpool/pico")
	r.hasEvent(t, "pico", "DeviceAppeared", "token A")
	r.hasEvent(t, "pico", "PhaseChanged", "Ready")
	if table := r.kubectl(t, "get", "hsmpool", "pico", "--namespace="+system, "--no-headers"); !strings.Contains(table, "1/1") || !strings.Contains(table, "Ready") {
		t.Errorf("kubectl shows %s", table)
	}
}

// testReplaced: 3 nodes, 2 HSMDevices, several tokens each, and discovery pods that
// are killed at random.
func testReplaced(t *testing.T, r *rig) {
	r.createDevice(t, "pico-replaced")
	r.createDevice(t, "nitro-replaced")
	r.expect(t, 3)
	random := rand.New(rand.NewPCG(3, 2))
	pods := map[int]string{}
	begin := func(node, number int) {
		name := fmt.Sprintf("node-%d", node)
		pods[node] = fmt.Sprintf("d-%d-%d", node, number)
		r.createPod(t, pods[node], name)
		r.report(t, pods[node], found("pico-replaced", name, fmt.Sprintf("P%da", node), fmt.Sprintf("P%db", node)), found("nitro-replaced", name, fmt.Sprintf("N%d", node)))
	}
	for node := 1; node <= 3; node++ {
		begin(node, 0)
	}
	r.want(t, "pico-replaced", "Ready 6/6 3/3")
	r.want(t, "nitro-replaced", "Ready 3/3 3/3")
	before := map[string]int{"pico-replaced": r.seen.count("pico-replaced"), "nitro-replaced": r.seen.count("nitro-replaced")}
	// named waits until a pool names the pods that there are.
	named := func(pool string) {
		t.Helper()
		await.NoError(t, time.Minute, func(context.Context) error {
			for _, pod := range r.seen.last(pool).Status.ReportingPods {
				if pod.PodName != pods[1] && pod.PodName != pods[2] && pod.PodName != pods[3] {
					return fmt.Errorf("pool %s still names pod %s", pool, pod.PodName)
				}
			}
			return nil
		})
	}
	const replaced = 60
	for i := range replaced {
		node := 1 + random.IntN(3)
		r.deletePod(t, pods[node])
		if i == replaced/2 {
			// The controller as well: it finds two nodes and what it wrote of the third.
			r.controller.Kill()
			var err error
			r.controller, err = process.Start(t.Context(), r.controller.Spec)
			must(t, err)
		}
		begin(node, i+1)
		if i%5 == 0 {
			named("pico-replaced")
		}
	}
	for name, first := range before {
		named(name)
		versions := r.seen.of(name, first)
		for i, pool := range versions {
			if pool.Status.Phase != v1alpha1.PoolPhaseReady || pool.Status.AvailableDevices != pool.Status.TotalDevices {
				t.Fatalf("pool %s flapped: %s", name, summary(pool))
			}
			for _, device := range pool.Status.AggregatedDevices {
				if device.HSMDeviceName != name || device.SerialNumber[0] != strings.ToUpper(name)[0] {
					t.Fatalf("device %s of HSMDevice %s is in pool %s", device.SerialNumber, device.HSMDeviceName, name)
				}
			}
			if i > 0 && slices.EqualFunc(pool.Status.ReportingPods, versions[i-1].Status.ReportingPods, func(a, b v1alpha1.ReportingPod) bool { return a.PodName == b.PodName }) {
				t.Errorf("pool %s was written without a change: %+v", name, pool.Status)
			}
		}
		if len(versions) > replaced {
			t.Errorf("pool %s was written %d times for %d new pods", name, len(versions), replaced)
		}
		t.Logf("pool %s: %d writes for %d new pods", name, len(versions), replaced)
	}
}

// testIdle: reports that tell the same again and again are no reason to write.
func testIdle(t *testing.T, r *rig) {
	r.createDevice(t, "pico-idle")
	r.expect(t, 3)
	for node := 1; node <= 3; node++ {
		r.createPod(t, fmt.Sprintf("d-%d", node), fmt.Sprintf("node-%d", node))
	}
	tell := func() {
		for node := 1; node <= 3; node++ {
			name := fmt.Sprintf("node-%d", node)
			r.report(t, fmt.Sprintf("d-%d", node), found("pico-idle", name, fmt.Sprintf("P%d", node)))
		}
	}
	tell()
	r.want(t, "pico-idle", "Ready 3/3 3/3")
	before := r.seen.count("pico-idle")
	ticker := time.NewTicker(time.Second) // Reports tell whole seconds.
	defer ticker.Stop()
	for range 10 {
		<-ticker.C
		tell()
	}
	// A change behind them shows that all of them were seen.
	r.report(t, "d-3", found("pico-idle", "node-3"))
	r.want(t, "pico-idle", "Partial 2/3 3/3")
	writes := r.seen.count("pico-idle") - before - 1
	fmt.Printf("figure: pool-status-writes-idle %d\n", writes)
	if writes != 0 {
		t.Errorf("%d writes of an idle pool", writes)
	}
}

// testUnplugged: a token that is not reported any more is unavailable at once, and
// back at another path when it is reported again.
func testUnplugged(t *testing.T, r *rig) {
	r.createDevice(t, "pico-unplugged")
	r.expect(t, 1)
	r.createPod(t, "d-1", "node-1")
	r.report(t, "d-1", found("pico-unplugged", "node-1", "A", "B"))
	r.want(t, "pico-unplugged", "Ready 2/2 1/1")
	start := time.Now()
	r.report(t, "d-1", found("pico-unplugged", "node-1", "A"))
	pool := r.want(t, "pico-unplugged", "Partial 1/2 1/1")
	took := time.Since(start)
	fmt.Printf("figure: report-to-unavailable-ms %d\n", took.Milliseconds())
	// At once: the grace period, after which it would be in any case, is far longer.
	if took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	if device := pool.Status.AggregatedDevices[1]; device.SerialNumber != "B" || device.Available || device.Reason != "Unplugged" {
		t.Errorf("the device is %+v", device)
	}
	r.hasEvent(t, "pico-unplugged", "DeviceLost", "token B")
	r.report(t, "d-1", found("pico-unplugged", "node-1", "B", "A"))
	r.want(t, "pico-unplugged", "Ready 2/2 1/1")
}

// testNodeDown: a node of which nothing is heard loses its tokens, and no others.
func testNodeDown(t *testing.T, r *rig) {
	r.createDevice(t, "pico-down")
	r.expect(t, 2)
	await.NoError(t, time.Minute, func(context.Context) error {
		_, err := r.hsm.HsmV1alpha1().HSMPools(system).Patch(t.Context(), "pico-down", types.MergePatchType, []byte(`{"spec":{"gracePeriod":"4s"}}`), metav1.PatchOptions{})
		return err
	})
	for node := 1; node <= 2; node++ {
		r.createPod(t, fmt.Sprintf("d-%d", node), fmt.Sprintf("node-%d", node))
	}
	r.report(t, "d-1", found("pico-down", "node-1", "A"))
	ctx, cancel := context.WithCancel(t.Context())
	var alive sync.WaitGroup
	defer alive.Wait()
	defer cancel()
	r.report(t, "d-2", found("pico-down", "node-2", "B"))
	alive.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				value, err := report.Encode([]report.Entry{found("pico-down", "node-2", "B")})
				if err != nil {
					t.Error(err)
					return
				}
				patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, report.Annotation, value)
				_, err = r.core.CoreV1().Pods(system).Patch(ctx, "d-2", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		}
	})
	pool := r.want(t, "pico-down", "Partial 1/2 1/2")
	if a, b := pool.Status.AggregatedDevices[0], pool.Status.AggregatedDevices[1]; a.Reason != "NodeNotReporting" || !b.Available {
		t.Errorf("the devices are %+v", pool.Status.AggregatedDevices)
	}
	r.kubectl(t, "wait", "--namespace="+system, "--for=condition=Reporting=false", "--timeout=10m", "hsmpool/pico-down")
	r.report(t, "d-1", found("pico-down", "node-1", "A"))
	r.want(t, "pico-down", "Ready 2/2 2/2")
}

// testHostile: reports of pods that are none of discovery's, and what a node may not
// say, are ignored, and told.
func testHostile(t *testing.T, r *rig) {
	r.createDevice(t, "pico-hostile")
	r.expect(t, 1)
	r.createPod(t, "d-1", "node-1")
	r.report(t, "d-1", found("pico-hostile", "node-1", "A"))
	r.want(t, "pico-hostile", "Ready 1/1 1/1")
	before := r.seen.count("pico-hostile")

	_, err := r.core.CoreV1().ServiceAccounts(system).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}}, metav1.CreateOptions{})
	must(t, err)
	r.createPod(t, "foreign-labels", "node-2", func(p *corev1.Pod) { p.OwnerReferences = nil })
	r.report(t, "foreign-labels", found("pico-hostile", "node-2", "EVIL"))
	r.hasEvent(t, "foreign-labels", "ReportRefused", "not of the DaemonSet")
	r.createPod(t, "foreign-account", "node-2", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "foreign" })
	r.report(t, "foreign-account", found("pico-hostile", "node-2", "EVIL"))
	r.hasEvent(t, "foreign-account", "ReportRefused", "not of the DaemonSet")
	r.createPod(t, "wrong-node", "node-2")
	r.report(t, "wrong-node", found("pico-hostile", "node-1", "EVIL"))
	r.hasEvent(t, "wrong-node", "ReportRefused", "the pod runs on")
	r.createPod(t, "giant", "node-2")
	r.annotate(t, "giant", strings.Repeat("x", 250<<10))
	r.hasEvent(t, "giant", "ReportRefused", "more than 131072")
	r.createPod(t, "many", "node-2")
	device := `{"devicePath":"/dev/a","serialNumber":"EVIL"}`
	value, err := report.Encode([]report.Entry{found("pico-hostile", "node-2")})
	must(t, err)
	r.annotate(t, "many", strings.Replace(value, `"discoveredDevices":[]`, `"discoveredDevices":[`+device+strings.Repeat(","+device, 999)+"]", 1))
	r.hasEvent(t, "many", "ReportRefused", "1000 devices")
	r.createPod(t, "future", "node-2")
	entry := found("pico-hostile", "node-2", "EVIL")
	entry.LastReportTime = report.Time(time.Now().Add(time.Hour))
	r.report(t, "future", entry)
	r.hasEvent(t, "future", "ReportRefused", "in the future")

	// A hundred more of the same are no hundred events.
	for i := range 100 {
		r.annotate(t, "giant", fmt.Sprint(i))
	}
	r.report(t, "d-1", found("pico-hostile", "node-1", "A", "B"))
	r.want(t, "pico-hostile", "Ready 2/2 1/1")
	if writes := r.seen.count("pico-hostile") - before; writes != 1 {
		t.Errorf("hostile reports made %d writes", writes-1)
	}
	list, err := r.core.CoreV1().Events(system).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=giant"})
	must(t, err)
	events := int32(0)
	for i := range list.Items {
		events += max(1, list.Items[i].Count)
	}
	if events > 30 {
		t.Errorf("%d events of one pod", events)
	}
}

// testAtOnce: 50 pods report at once. Their reports are gathered, and the memory of the
// controller does not grow with how often they report.
func testAtOnce(t *testing.T, r *rig) {
	const nodes = 50
	r.createDevice(t, "pico-many", func(d *v1alpha1.HSMDevice) { d.Spec.MaxDevices = nodes })
	r.expect(t, nodes)
	for node := range nodes {
		r.createPod(t, fmt.Sprintf("d-%d", node), fmt.Sprintf("node-%d", node))
	}
	all := func(serials ...string) {
		var group sync.WaitGroup
		for node := range nodes {
			group.Go(func() {
				name := fmt.Sprintf("node-%d", node)
				var own []string
				for _, serial := range serials {
					own = append(own, fmt.Sprintf("%s%d", serial, node))
				}
				r.report(t, fmt.Sprintf("d-%d", node), found("pico-many", name, own...))
			})
		}
		group.Wait()
	}
	all("P")
	r.want(t, "pico-many", "Ready 50/50 50/50")
	resident, before := r.residentKiB(t), r.seen.count("pico-many")
	const rounds = 10
	for i := range rounds {
		if i%2 == 0 {
			all()
			r.want(t, "pico-many", "Error 0/50 50/50")
		} else {
			all("P")
			r.want(t, "pico-many", "Ready 50/50 50/50")
		}
	}
	writes := r.seen.count("pico-many") - before
	grown := r.residentKiB(t) - resident
	fmt.Printf("figure: pool-status-writes-50-reports %.1f\n", float64(writes)/rounds)
	fmt.Printf("figure: controller-rss-mib %d\n", r.residentKiB(t)>>10)
	if writes > 10*rounds {
		t.Errorf("%d writes for %d times 50 reports", writes, rounds)
	}
	if grown > 16<<10 {
		t.Errorf("the controller's memory grew by %d KiB", grown)
	}
}

// agentDouble answers as an agent does.
type agentDouble struct {
	agentv1.UnimplementedStoreServer
	status atomic.Pointer[agentv1.StatusResponse]
}

func (a *agentDouble) Status(context.Context, *agentv1.StatusRequest) (*agentv1.StatusResponse, error) {
	return a.status.Load(), nil
}

// testAgents: what an agent tells is in the pool.
func testAgents(t *testing.T, r *rig) {
	r.createDevice(t, "pico-agents", func(d *v1alpha1.HSMDevice) {
		d.Spec.PKCS11 = &v1alpha1.PKCS11{LibraryPath: "/usr/lib/opensc-pkcs11.so", PINSecret: &v1alpha1.PINSecretReference{Name: "pin"}}
	})
	r.expect(t, 1)
	r.createPod(t, "d-1", "node-1")
	r.report(t, "d-1", found("pico-agents", "node-1", "A"))
	r.want(t, "pico-agents", "Aggregating 1/1 1/1")

	// Nobody else has this address of the loopback interface.
	ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 2+rand.IntN(250))
	cert, key, err := r.agents.Issue("agent-a", pki.Server, agentname.ServerName("A", system))
	must(t, err)
	creds, err := mtls.Files{CertFile: cert, KeyFile: key, CAFile: r.agents.CertFile}.Server()
	must(t, err)
	double := &agentDouble{}
	double.status.Store(&agentv1.StatusResponse{
		StoreId: "5e0f", Serial: "A", Revision: 17, FirmwareVersion: "6.4", PinState: agentv1.PINState_PIN_STATE_ACCEPTED,
		Capacity: &agentv1.Capacity{Objects: 12, SpareObjects: 2, FreeObjects: 80, ReservedObjects: 4, Bytes: 9000, FreeBytes: 200000, QuarantinedObjects: 1},
		Scrub:    &agentv1.Scrub{Time: time.Now().Unix(), IntervalSeconds: 86400},
	})
	serve := func() *grpc.Server {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ip+":9443")
		must(t, err)
		server := grpc.NewServer(grpc.Creds(creds))
		agentv1.RegisterStoreServer(server, double)
		go func() { _ = server.Serve(listener) }()
		return server
	}
	server := serve()
	defer func() { server.Stop() }()
	pods := r.core.CoreV1().Pods(system)
	pod, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "agent", Labels: map[string]string{agentname.ObjectLabel: agentname.For("A")}},
		Spec:       corev1.PodSpec{NodeName: "node-1", ServiceAccountName: discovery, Containers: []corev1.Container{{Name: "agent", Image: "hsm-agent"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	_, err = pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	must(t, err)

	member := r.want(t, "pico-agents", "Ready 1/1 1/1").Status.Members[0]
	if member.State != v1alpha1.MemberStateServing || member.AgentEndpoint != ip+":9443" || member.NodeName != "node-1" || member.StoreID != "5e0f" ||
		member.Revision != "17" || member.Objects != (v1alpha1.Capacity{Used: 10, Free: 80}) || member.Bytes.Free != 200000 || member.ReservedObjects != 4 ||
		member.QuarantinedObjects != 1 || member.FirmwareVersion != "6.4" || member.PINState != v1alpha1.PINStateAccepted ||
		member.LastScrubTime == nil || member.ScrubInterval.Duration != 24*time.Hour || time.Until(member.CertificateExpiry.Time) < time.Hour {
		t.Errorf("the member is %+v", member)
	}
	r.kubectl(t, "wait", "--namespace="+system, "--for=condition=AgentsServing", "--timeout=10m", "hsmpool/pico-agents")

	// A state is told at once.
	double.status.Store(&agentv1.StatusResponse{StoreId: "5e0f", Serial: "A", Reason: agentv1.Reason_REASON_PIN_REJECTED, Message: "the token refused the PIN", PinState: agentv1.PINState_PIN_STATE_REJECTED})
	member = r.want(t, "pico-agents", "Error 1/1 1/1").Status.Members[0]
	if member.State != "PinRejected" || member.PINState != v1alpha1.PINStateRejected || member.Message != "the token refused the PIN" || member.Objects.Used != 10 {
		t.Errorf("the member is %+v", member)
	}
	r.hasEvent(t, "pico-agents", "TokenNotServed", "PinRejected")
	server.Stop()
	await.NoError(t, time.Minute, func(context.Context) error {
		if state := r.seen.last("pico-agents").Status.Members[0].State; state != v1alpha1.MemberStateAgentUnreachable {
			return fmt.Errorf("the state is %s", state)
		}
		return nil
	})
	double.status.Store(&agentv1.StatusResponse{StoreId: "5e0f", Serial: "A", Revision: 18, PinState: agentv1.PINState_PIN_STATE_ACCEPTED})
	server = serve()
	r.want(t, "pico-agents", "Ready 1/1 1/1")
}
