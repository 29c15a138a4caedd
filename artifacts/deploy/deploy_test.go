// SPDX-License-Identifier: Apache-2.0

// Package deploy tests the manifests that lie beside it.
package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apiserver"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/controller/identity"
	"j5t.io/hsm/pkg/controller/projection"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/suite"
)

// alternative takes the place of controller-cluster-rbac.yaml where a person wants it.
const alternative = "controller-namespace-rbac.yaml"

// withCertManager is what a person's kustomization with components/cert-manager is.
const withCertManager = "testdata/cert-manager"

var overlays = []string{"overlays/pico", "overlays/softhsm", withCertManager}

// devicePlugin is an overlay with the component device-plugin.
const devicePlugin = "testdata/device-plugin"

// TestAccepted shows every manifest and every sample to a real kube-apiserver, and those
// of our kinds through it to our API server.
func TestAccepted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	hsm := suite.StartCluster(t, cluster.Options{})
	dryRun := func(kubectl controlplane.Kubectl, args ...string) int {
		t.Helper()
		stdout, stderr, err := kubectl.Run(ctx, append([]string{"apply", "--server-side", "--dry-run=server", "--field-manager=test", "--force-conflicts"}, args...)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		if strings.Contains(stderr, "Warning") {
			t.Errorf("%s: %s", args, stderr)
		}
		return strings.Count(stdout, "(server dry run)")
	}
	if err := hsm.DefineCertManager(ctx); err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for _, folder := range append([]string{"base", devicePlugin}, overlays...) {
		kubectl := hsm.Kubectl(hsm.AdminKubeconfig)
		manifests := kustomize(ctx, t, folder)
		kubectl.Stdin = strings.NewReader(manifests)
		got, want := dryRun(kubectl, "-f", "-"), len(documents(t, manifests))
		if got != want {
			t.Errorf("%s: %d of %d objects were accepted", folder, got, want)
		}
		accepted += got
	}
	samples, err := filepath.Glob("../samples/*.yaml")
	if err != nil || len(samples) == 0 {
		t.Fatalf("samples: %q %v", samples, err)
	}
	for _, file := range append(samples, filepath.Join("base", alternative)) {
		got := dryRun(hsm.Kubectl(hsm.AdminKubeconfig), "-f", file)
		if got == 0 {
			t.Errorf("%s: nothing was accepted", file)
		}
		accepted += got
	}
	fmt.Printf("figure: manifests-accepted %d\n", accepted)
}

// TestDevicePlugin wants nothing left of what a cluster before Kubernetes 1.34 does not serve.
func TestDevicePlugin(t *testing.T) {
	t.Parallel()
	manifests := kustomize(t.Context(), t, devicePlugin)
	for _, word := range []string{"resource.k8s.io", "resourceclaim", "plugins_registry", "/cdi"} {
		if strings.Contains(manifests, word) {
			t.Errorf("%s is left", word)
		}
	}
	if count := strings.Count(manifests, "--device-access=plugin"); count != 2 {
		t.Errorf("%d of discovery and controller are told", count)
	}
	for _, object := range objects(t, manifests) {
		if daemonSet, is := object.(*appsv1.DaemonSet); is {
			checkPod(t, daemonSet.Name, &daemonSet.Spec.Template)
		}
	}
}

// TestBase looks at what kube-apiserver does not check.
func TestBase(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("base/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile("base/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var kustomization struct{ Resources []string }
	if err := yaml.Unmarshal(content, &kustomization); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if name != "kustomization.yaml" && name != alternative && !slices.Contains(kustomization.Resources, name) {
			t.Errorf("%s is not in kustomization.yaml", name)
		}
	}

	pods := map[string]*corev1.PodTemplateSpec{}
	accounts := sets.New[string]()
	var selectors []labels.Selector
	policies := map[string]labels.Selector{}
	for _, object := range objects(t, kustomize(t.Context(), t, "base")) {
		switch object := object.(type) {
		case *appsv1.Deployment:
			pods[object.Name] = &object.Spec.Template
		case *appsv1.DaemonSet:
			pods[object.Name] = &object.Spec.Template
		case *corev1.ServiceAccount:
			accounts.Insert(object.Name)
		case *corev1.Service:
			selectors = append(selectors, labels.SelectorFromSet(object.Spec.Selector))
		case *policyv1.PodDisruptionBudget:
			selector, err := metav1.LabelSelectorAsSelector(object.Spec.Selector)
			if err != nil {
				t.Fatal(err)
			}
			selectors = append(selectors, selector)
		case *networkingv1.NetworkPolicy:
			selector, err := metav1.LabelSelectorAsSelector(&object.Spec.PodSelector)
			if err != nil {
				t.Fatal(err)
			}
			policies[object.Name] = selector
		}
	}
	for _, name := range []string{"hsm-apiserver", identity.Name, "hsm-discovery"} {
		if pods[name] == nil || !accounts.Has(name) {
			t.Errorf("%s: there are the pods of %v and the ServiceAccounts %v", name, pods, accounts)
		}
	}
	for name, pod := range pods {
		checkPod(t, name, pod)
	}
	for _, selector := range selectors {
		if !selector.Matches(labels.Set(pods["hsm-apiserver"].Labels)) {
			t.Errorf("the selector %s does not match the API server", selector)
		}
	}
	checkAPIServer(t, pods["hsm-apiserver"])
	// The policy of a name is that of its pods; agents are made by the controller.
	labelled := map[string]labels.Set{"hsm-agent": {agentname.ObjectLabel: "some"}}
	for name, pod := range pods {
		labelled[name] = pod.Labels
	}
	for name, set := range labelled {
		if policies[name] == nil || !policies[name].Matches(set) || !policies["default-deny"].Matches(set) {
			t.Errorf("%s: the NetworkPolicies are not its own", name)
		}
	}
}

// TestCertManager looks at what the component changes in the base, beside what it adds.
func TestCertManager(t *testing.T) {
	t.Parallel()
	manifests := kustomize(t.Context(), t, withCertManager)
	if strings.Contains(manifests, certs.InjectAnnotation) {
		t.Error("the controller is asked for the caBundle, too")
	}
	if !strings.Contains(manifests, "cert-manager.io/inject-ca-from: hsm-system/"+certs.ServingSecret+"\n") {
		t.Error("nobody is asked for the caBundle")
	}
	for _, object := range objects(t, manifests) {
		controller, is := object.(*appsv1.Deployment)
		if !is || controller.Name != identity.Name {
			continue
		}
		if args := controller.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--certificates="+certs.ByCertManager) {
			t.Errorf("the controller makes certificates itself: %q", args)
		}
		return
	}
	t.Error("there is no controller")
}

// TestSameNames compares the names and ports that the manifests repeat with the constants
// of the code.
func TestSameNames(t *testing.T) {
	t.Parallel()
	callers := []string{agentv1.ClientAPIServer, identity.Name}
	agents := metav1.LabelSelectorRequirement{Key: agentname.ObjectLabel, Operator: metav1.LabelSelectorOpExists}
	port := []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromInt32(agentv1.Port))}}
	compared := 0
	for _, object := range objects(t, kustomize(t.Context(), t, "base")) {
		switch object := object.(type) {
		case *networkingv1.NetworkPolicy:
			switch object.Name {
			case "hsm-agent":
				from := object.Spec.Ingress[0]
				if selector := object.Spec.PodSelector.MatchExpressions; len(selector) != 1 || !equality.Semantic.DeepEqual(selector[0], agents) {
					t.Errorf("the NetworkPolicy of agents selects %v", selector)
				}
				if allowed := from.From[0].PodSelector.MatchExpressions[0].Values; !slices.Equal(allowed, callers) || !equality.Semantic.DeepEqual(from.Ports, port) {
					t.Errorf("agents are reached by %q on %v, want %q on %v", allowed, from.Ports, callers, port)
				}
				compared++
			case identity.Name:
				to := object.Spec.Egress[len(object.Spec.Egress)-1]
				if !equality.Semantic.DeepEqual(to.To[0].PodSelector.MatchExpressions[0], agents) || !equality.Semantic.DeepEqual(to.Ports, port) {
					t.Errorf("the controller may call %v, want agents on %v", to, port)
				}
				compared++
			}
		case *rbacv1.Role:
			for _, rule := range object.Rules {
				if object.Name == identity.Name && slices.Contains(rule.Resources, "hsmsecrets") && len(rule.ResourceNames) > 0 {
					if !slices.Equal(rule.ResourceNames, []string{projection.KeyName}) {
						t.Errorf("the controller may read the HSMSecrets %q, and its key is %s", rule.ResourceNames, projection.KeyName)
					}
					compared++
				}
			}
		case *appsv1.Deployment:
			for _, volume := range object.Spec.Template.Spec.Volumes {
				if object.Name == identity.Name && volume.Secret != nil {
					if volume.Secret.SecretName != certs.ControllerClientSecret {
						t.Errorf("the controller mounts %s, and makes %s", volume.Secret.SecretName, certs.ControllerClientSecret)
					}
					compared++
				}
			}
		}
	}
	if compared != 4 {
		t.Errorf("%d names were compared, want 4", compared)
	}
}

// checkPod is what every pod of ours keeps.
func checkPod(t *testing.T, name string, pod *corev1.PodTemplateSpec) {
	t.Helper()
	if pod.Spec.ServiceAccountName != name {
		t.Errorf("%s has the ServiceAccount %q", name, pod.Spec.ServiceAccountName)
	}
	security := pod.Spec.SecurityContext
	if security == nil || security.SeccompProfile == nil || security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: seccomp is not RuntimeDefault", name)
	}
	if pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC {
		t.Errorf("%s is in a namespace of the host", name)
	}
	for _, container := range pod.Spec.Containers {
		s := container.SecurityContext
		switch {
		case s == nil || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0:
			t.Errorf("%s has capabilities", name)
		case s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
			t.Errorf("%s may gain privileges", name)
		case s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem:
			t.Errorf("%s may write to its root", name)
		}
		if strings.ContainsAny(container.Image, "/:") {
			t.Errorf("%s: the image %s is not a bare name", name, container.Image)
		}
		if container.LivenessProbe == nil {
			t.Errorf("%s has no liveness probe", name)
		}
		if container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Memory().IsZero() {
			t.Errorf("%s has no bounds of memory", name)
		}
	}
}

func checkAPIServer(t *testing.T, pod *corev1.PodTemplateSpec) {
	t.Helper()
	run := apiserver.NewOptions().Run
	needs := run.ShutdownDelayDuration + run.RequestTimeout + run.ShutdownWatchTerminationGracePeriod
	if grace := *pod.Spec.TerminationGracePeriodSeconds; time.Duration(grace)*time.Second != needs {
		t.Errorf("terminationGracePeriodSeconds is %d, the server needs %s", grace, needs)
	}
	var secrets []string
	for _, volume := range pod.Spec.Volumes {
		secrets = append(secrets, volume.Secret.SecretName)
	}
	if want := []string{certs.ServingSecret, certs.APIServerClientSecret}; !slices.Equal(secrets, want) {
		t.Errorf("the API server mounts %q, and the controller makes %q", secrets, want)
	}
}

func kustomize(ctx context.Context, t *testing.T, folder string) string {
	t.Helper()
	found, err := assets.Find(ctx, os.Stderr, assets.Kubectl)
	if err != nil {
		t.Fatal(err)
	}
	manifests, _, err := controlplane.Kubectl{Path: found[assets.Kubectl]}.Run(ctx, "kustomize", folder)
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}

func documents(t *testing.T, manifests string) [][]byte {
	t.Helper()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifests)))
	var all [][]byte
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, document)
	}
}

// objects are those of Kubernetes' own kinds.
func objects(t *testing.T, manifests string) []runtime.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var all []runtime.Object
	for _, document := range documents(t, manifests) {
		object, err := runtime.Decode(decoder, document)
		if runtime.IsNotRegisteredError(err) {
			continue
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		all = append(all, object)
	}
	return all
}
