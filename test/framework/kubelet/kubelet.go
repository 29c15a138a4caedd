// SPDX-License-Identifier: Apache-2.0

// Package kubelet stands in for the kubelet of a node: it runs the programs of pods as
// processes of this machine. It owns a Node, a folder, the processes, and what kubelet
// writes of the pods. It isolates nothing and pulls no image.
//
// What differs for a program from a container:
//   - There is no mount namespace. Where the path of a volumeMount stands in an argument,
//     in the environment or in an exec probe, the path of the volume on this machine is put
//     in its place; files of the image are those of this machine.
//   - A pod has an address of its own, but of the loopback interface, and its programs could
//     listen on others: they must be told to listen on status.podIP.
//   - A ServiceAccount, and folders of the node that no argument names, are given by flags
//     (Program).
//   - A ResourceClaim is prepared by its driver, but no container runtime does what the
//     driver says in CDI files. A device plugin is asked for device files, which is all that
//     becomes of them.
//   - An init container that ends runs its command from this machine.
//   - Security contexts and resources are not looked at.
package kubelet

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listerscorev1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"j5t.io/hsm/pkg/discovery/dra/dratest"
)

// Program is what stands for an image.
type Program struct {
	// Path is the binary. It is run whatever the command of a container is.
	Path string
	// Absent are commands of the image that cannot be run here. Containers with them are
	// said to run.
	Absent []string
	// KubeconfigFlags are the names of flags that take a kubeconfig. Each is added with one
	// that has the token of the pod's ServiceAccount, bound to the pod.
	KubeconfigFlags []string
	// NodePathFlags are flags that take a path of the node, and which. They are added.
	NodePathFlags map[string]string
}

// Options says which node it is.
type Options struct {
	// Node is its name, Labels are added to those that every node has.
	Node   string
	Labels map[string]string
	// Config is a client of the cluster with all rights.
	Config *rest.Config
	// Dir takes all that the node keeps. It is the same when the node comes back.
	Dir string
	// Programs are the images that can be run, by their name without registry and tag.
	// Pods with others stay pending.
	Programs map[string]Program
	// Env is added to the environment of all programs: it stands for the node's hardware.
	Env []string
	// Bind binds pods to the node that nobody has bound and that may run here, where there
	// is no scheduler. Only their nodeSelector and node affinity are looked at.
	Bind bool
}

// Kubelet is a running node.
type Kubelet struct {
	Options

	client  kubernetes.Interface
	secrets listerscorev1.SecretLister
	cancel  context.CancelFunc
	group   sync.WaitGroup

	mutex   sync.Mutex
	pods    map[types.UID]*pod
	drivers map[string]*dratest.Plugin
	plugins *devicePlugins
}

// Start makes the node Ready, and runs what is bound to it until Stop. The end of ctx ends
// the start only.
func Start(ctx context.Context, o Options) (*Kubelet, error) {
	config := rest.CopyConfig(o.Config)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	k := &Kubelet{Options: o, client: client, pods: map[types.UID]*pod{}, drivers: map[string]*dratest.Plugin{}}
	if err := k.makeFolders(); err != nil {
		return nil, err
	}
	if err := k.register(ctx); err != nil {
		return nil, fmt.Errorf("register node %s: %w", o.Node, err)
	}
	life, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	if k.plugins, err = k.servePlugins(life); err != nil {
		cancel()
		return nil, err
	}
	k.group.Go(func() { wait.UntilWithContext(life, k.heartbeat, leaseInterval) })
	if err := k.watch(ctx, life); err != nil {
		k.Stop()
		return nil, err
	}
	return k, nil
}

// Stop is a power cut: what runs is killed, and the cluster is told nothing. Start with
// the same options is the node that comes back.
func (k *Kubelet) Stop() {
	k.cancel()
	k.group.Wait()
	for _, driver := range k.drivers {
		driver.Close()
	}
}

// Root is the root of the node's file system, in which hostPath volumes lie.
func (k *Kubelet) Root() string { return filepath.Join(k.Dir, "root") }

// Log is the file with the output of all runs of a container.
func (k *Kubelet) Log(pod, container string) string {
	return filepath.Join(k.Dir, "logs", pod+"_"+container+".log")
}

// Kill kills the processes of a pod, as the kernel does when memory is short. They are
// started again.
func (k *Kubelet) Kill(namespace, name string) error {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for _, p := range k.pods {
		if p.namespace == namespace && p.name == name {
			p.kill()
			return nil
		}
	}
	return fmt.Errorf("kill %s/%s: it does not run on %s", namespace, name, k.Node)
}

// watch runs the pods of the node. start bounds the wait for the first lists.
func (k *Kubelet) watch(start, life context.Context) error {
	secrets := informers.NewSharedInformerFactory(k.client, 0)
	k.secrets = secrets.Core().V1().Secrets().Lister()
	bound := k.podsWith(k.Node)
	unbound := k.podsWith("")
	handlers := map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		secrets.Core().V1().Secrets().Informer(): everyChange(func(any) { k.changed() }),
		bound.Core().V1().Pods().Informer():      k.podHandler(life),
	}
	factories := []informers.SharedInformerFactory{secrets, bound}
	if k.Bind {
		handlers[unbound.Core().V1().Pods().Informer()] = everyChange(func(object any) { k.bind(life, object.(*corev1.Pod)) })
		factories = append(factories, unbound)
	}
	for informer, handler := range handlers {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	for _, factory := range factories {
		factory.StartWithContext(life)
		k.group.Go(func() {
			<-life.Done()
			factory.Shutdown()
		})
	}
	for _, factory := range factories {
		if result := factory.WaitForCacheSyncWithContext(start); result.Err != nil {
			return fmt.Errorf("list what node %s runs: %w", k.Node, result.Err)
		}
	}
	return nil
}

func (k *Kubelet) podsWith(node string) informers.SharedInformerFactory {
	selector := fields.OneTermEqualSelector("spec.nodeName", node).String()
	return informers.NewSharedInformerFactoryWithOptions(k.client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = selector }))
}

func everyChange(f func(object any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    f,
		UpdateFunc: func(_, object any) { f(object) },
	}
}

func (k *Kubelet) podHandler(life context.Context) cache.ResourceEventHandler {
	handler := everyChange(func(object any) { k.update(life, object.(*corev1.Pod)) }).(cache.ResourceEventHandlerFuncs)
	handler.DeleteFunc = func(object any) {
		if tombstone, is := object.(cache.DeletedFinalStateUnknown); is {
			object = tombstone.Obj
		}
		k.mutex.Lock()
		defer k.mutex.Unlock()
		if p := k.pods[object.(*corev1.Pod).UID]; p != nil {
			p.gone()
		}
	}
	return handler
}

// update runs a new pod, and gives a running one what has changed.
func (k *Kubelet) update(life context.Context, object *corev1.Pod) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if p := k.pods[object.UID]; p != nil {
		p.update(object)
		return
	}
	// One that has ended, or that was removed by force and is seen late, is not run.
	if life.Err() != nil || object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed {
		return
	}
	p := newPod(life, k, object)
	k.pods[object.UID] = p
	k.group.Go(func() {
		p.run()
		k.mutex.Lock()
		defer k.mutex.Unlock()
		delete(k.pods, object.UID)
	})
}

// changed lets all pods look at their Secrets.
func (k *Kubelet) changed() {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for _, p := range k.pods {
		p.notify()
	}
}
