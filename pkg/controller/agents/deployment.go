// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"path"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
)

const (
	// HealthPort is where kubelet asks for an agent's health, MetricsPort where Prometheus
	// reads its metrics.
	HealthPort  = 9444
	MetricsPort = 8080
	// StateRoot is the folder of a node in which each agent has its state, in a folder
	// of its own name. It outlives the agent. Without it, a later agent treats the token's
	// store as foreign.
	StateRoot = "/var/lib/hsm-agent"

	// Where an agent finds its files.
	stateDir  = "/var/lib/hsm-agent"
	pinDir    = "/run/hsm/pin"
	soPINDir  = "/run/hsm/so-pin"
	tlsDir    = "/run/hsm/tls"
	pcscDir   = "/run/pcscd"
	container = "agent"
)

// profiles are the agents' --token-profile by type of device.
var profiles = map[v1alpha1.DeviceType]string{
	v1alpha1.DeviceTypePicoHSM:      "pico",
	v1alpha1.DeviceTypeSmartCardHSM: "smartcard-hsm",
}

func (r *reconciler) deployment(a agent, device *v1alpha1.HSMDevice, p pin) *appsv1ac.DeploymentApplyConfiguration {
	name := a.name()
	d := appsv1ac.Deployment(name, r.SystemNamespace).WithSpec(appsv1ac.DeploymentSpec().
		WithReplicas(1).
		WithRevisionHistoryLimit(0).
		// Two agents must never use one token at once.
		WithStrategy(appsv1ac.DeploymentStrategy().WithType(appsv1.RecreateDeploymentStrategyType)).
		WithSelector(metav1ac.LabelSelector().WithMatchLabels(map[string]string{agentname.ObjectLabel: name})).
		WithTemplate(corev1ac.PodTemplateSpec().
			WithLabels(labelsOf(a)).
			WithAnnotations(map[string]string{SerialAnnotation: a.serial, DevicePathAnnotation: a.path}).
			WithSpec(r.podSpec(a, device, p))))
	d.ObjectMetaApplyConfiguration = r.meta(name, a, device).WithAnnotations(a.annotations())
	return d
}

func (r *reconciler) podSpec(a agent, device *v1alpha1.HSMDevice, p pin) *corev1ac.PodSpecApplyConfiguration {
	name := a.name()
	spec := corev1ac.PodSpec().
		WithServiceAccountName(name).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(30).
		WithAffinity(onNode(a.node)).
		// The token is on this node and on no other.
		WithTolerations(corev1ac.Toleration().WithOperator(corev1.TolerationOpExists)).
		// Root without capabilities: device files, and the folder of the state that kubelet
		// makes, are root's.
		WithSecurityContext(corev1ac.PodSecurityContext().WithRunAsUser(0).WithRunAsGroup(0).
			WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithVolumes(
			corev1ac.Volume().WithName("state").WithHostPath(corev1ac.HostPathVolumeSource().
				WithPath(path.Join(StateRoot, name)).WithType(corev1.HostPathDirectoryOrCreate)),
			secretVolume("pin", p.secret, false, corev1ac.KeyToPath().WithKey(p.key).WithPath(pinKey)),
			secretVolume("tls", certs.AgentSecret(name), false),
		)
	main := r.container(a, device)
	if device.Spec.PKCS11.AutoProvision {
		spec.WithVolumes(secretVolume("so-pin", SOPINSecret(name), true))
		main.WithArgs("--provision", "--so-pin-file="+path.Join(soPINDir, soPINKey)).
			WithVolumeMounts(corev1ac.VolumeMount().WithName("so-pin").WithMountPath(soPINDir).WithReadOnly(true))
	}
	if r.Access != AccessNone {
		r.giveDevice(spec, main, a, device)
	}
	return spec.WithContainers(main)
}

func onNode(node string) *corev1ac.AffinityApplyConfiguration {
	return corev1ac.Affinity().WithNodeAffinity(corev1ac.NodeAffinity().WithRequiredDuringSchedulingIgnoredDuringExecution(
		corev1ac.NodeSelector().WithNodeSelectorTerms(corev1ac.NodeSelectorTerm().WithMatchFields(
			corev1ac.NodeSelectorRequirement().WithKey(metav1.ObjectNameField).WithOperator(corev1.NodeSelectorOpIn).WithValues(node)))))
}

func secretVolume(name, secret string, optional bool, items ...*corev1ac.KeyToPathApplyConfiguration) *corev1ac.VolumeApplyConfiguration {
	source := corev1ac.SecretVolumeSource().WithSecretName(secret).WithDefaultMode(0o400).WithItems(items...)
	if optional {
		source.WithOptional(true)
	}
	return corev1ac.Volume().WithName(name).WithSecret(source)
}

// container is the agent's container.
func (r *reconciler) container(a agent, device *v1alpha1.HSMDevice) *corev1ac.ContainerApplyConfiguration {
	pkcs11 := device.Spec.PKCS11
	// An IPv6 address needs the brackets, and an IPv4 address may have them.
	args := []string{
		"--pkcs11-module=" + pkcs11.LibraryPath,
		"--token-serial=" + a.serial,
		"--pin-file=" + path.Join(pinDir, pinKey),
		"--state-dir=" + stateDir,
		"--listen=[$(POD_IP)]:" + strconv.Itoa(agentv1.Port),
		"--health-listen=[$(POD_IP)]:" + strconv.Itoa(HealthPort),
		"--metrics-listen=[$(POD_IP)]:" + strconv.Itoa(MetricsPort),
		"--tls-cert-file=" + path.Join(tlsDir, corev1.TLSCertKey),
		"--tls-private-key-file=" + path.Join(tlsDir, corev1.TLSPrivateKeyKey),
		"--client-ca-file=" + path.Join(tlsDir, certs.BundleKey),
	}
	if a.hint != "" {
		args = append(args, "--store-id-hint="+a.hint)
	}
	if pkcs11.TokenLabel != "" {
		args = append(args, "--token-label="+pkcs11.TokenLabel)
	}
	if pkcs11.SlotID != nil {
		args = append(args, "--slot="+strconv.Itoa(int(*pkcs11.SlotID)))
	}
	if profile := profiles[device.Spec.DeviceType]; profile != "" {
		args = append(args, "--token-profile="+profile)
	}
	return corev1ac.Container().
		WithName(container).
		WithImage(r.Image).
		WithArgs(args...).
		WithEnv(corev1ac.EnvVar().WithName("POD_IP").WithValueFrom(corev1ac.EnvVarSource().
			WithFieldRef(corev1ac.ObjectFieldSelector().WithFieldPath("status.podIP")))).
		WithPorts(
			corev1ac.ContainerPort().WithName("grpc").WithContainerPort(agentv1.Port).WithProtocol(corev1.ProtocolTCP),
			corev1ac.ContainerPort().WithName("health").WithContainerPort(HealthPort).WithProtocol(corev1.ProtocolTCP),
			corev1ac.ContainerPort().WithName("http").WithContainerPort(MetricsPort).WithProtocol(corev1.ProtocolTCP),
		).
		// An agent whose token is away is not ready. It is not killed for that.
		WithReadinessProbe(probe("").WithPeriodSeconds(2)).
		WithLivenessProbe(probe(agentv1.LivenessService).WithPeriodSeconds(20).WithTimeoutSeconds(5).WithInitialDelaySeconds(10)).
		WithResources(corev1ac.ResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("64Mi")}).
			WithLimits(corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")})).
		WithSecurityContext(hardened()).
		WithVolumeMounts(
			corev1ac.VolumeMount().WithName("state").WithMountPath(stateDir),
			corev1ac.VolumeMount().WithName("pin").WithMountPath(pinDir).WithReadOnly(true),
			corev1ac.VolumeMount().WithName("tls").WithMountPath(tlsDir).WithReadOnly(true),
		)
}

func probe(service string) *corev1ac.ProbeApplyConfiguration {
	return corev1ac.Probe().WithGRPC(corev1ac.GRPCAction().WithPort(HealthPort).WithService(service))
}

func hardened() *corev1ac.SecurityContextApplyConfiguration {
	return corev1ac.SecurityContext().
		WithAllowPrivilegeEscalation(false).
		WithPrivileged(false).
		WithReadOnlyRootFilesystem(true).
		WithCapabilities(corev1ac.Capabilities().WithDrop("ALL"))
}

// giveDevice gives the pod access to the token, and a PC/SC daemon of its own, through which
// PKCS#11 modules reach smart cards. A daemon of the node would see the tokens of all agents.
func (r *reconciler) giveDevice(spec *corev1ac.PodSpecApplyConfiguration, main *corev1ac.ContainerApplyConfiguration, a agent, device *v1alpha1.HSMDevice) {
	socket := corev1ac.VolumeMount().WithName("pcscd").WithMountPath(pcscDir)
	daemon := corev1ac.Container().
		WithName("pcscd").
		WithImage(r.Image).
		WithCommand("/usr/sbin/pcscd", "--foreground").
		WithRestartPolicy(corev1.ContainerRestartPolicyAlways).
		WithResources(corev1ac.ResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("8Mi")}).
			WithLimits(corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")})).
		WithSecurityContext(hardened()).
		WithVolumeMounts(socket)
	main.WithVolumeMounts(socket)
	if r.Access == AccessDRA {
		claim := corev1ac.ResourceClaim().WithName(requestName)
		spec.WithResourceClaims(corev1ac.PodResourceClaim().WithName(requestName).WithResourceClaimName(claimName(a)))
		daemon.Resources.WithClaims(claim)
		main.Resources.WithClaims(claim)
	} else {
		// Kubelet gives a device of a plugin to one container only: here to the one that opens
		// it. PC/SC finds readers by itself; a device that is found by its file is opened by the
		// PKCS#11 module.
		opener := daemon
		if discovery := device.Spec.Discovery; discovery != nil && discovery.DevicePath != nil {
			opener = main
		}
		(*opener.Resources.Limits)[corev1.ResourceName(attribute.ResourceName(attribute.DeviceName(a.serial)))] = resource.MustParse("1")
	}
	spec.WithVolumes(corev1ac.Volume().WithName("pcscd").WithEmptyDir(corev1ac.EmptyDirVolumeSource())).
		WithInitContainers(daemon)
}
