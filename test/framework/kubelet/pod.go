// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

const (
	// retryInterval is the time to another try to start a pod or to tell its status.
	retryInterval = time.Second
	addressTries  = 100
)

// pod runs one pod: it waits for its volumes, starts its programs, writes its status, and
// ends them when the pod is deleted.
type pod struct {
	kubelet *Kubelet
	// life ends with the node.
	life            context.Context
	namespace, name string
	// dir takes the pod's volumes.
	dir string
	// address is the pod's own, of the loopback interface.
	address string
	paths   paths
	// change signals something new: the object, a Secret, a program.
	change chan struct{}

	mutex      sync.Mutex
	object     *corev1.Pod // as last seen
	removed    bool        // from the API
	waiting    error       // why the programs are not started
	containers []*container
	// claims are those that are prepared.
	claims []*resourcev1.ResourceClaim
}

func newPod(life context.Context, k *Kubelet, object *corev1.Pod) *pod {
	return &pod{
		kubelet:   k,
		life:      life,
		namespace: object.Namespace,
		name:      object.Name,
		dir:       filepath.Join(k.Dir, "pods", string(object.UID)),
		change:    make(chan struct{}, 1),
		object:    object,
	}
}

func (p *pod) notify() {
	select {
	case p.change <- struct{}{}:
	default:
	}
}

func (p *pod) update(object *corev1.Pod) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.object = object
	p.notify()
}

// gone says that the object is not there any more: it was removed by force.
func (p *pod) gone() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.removed = true
	p.notify()
}

func (p *pod) kill() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, c := range p.containers {
		c.kill()
	}
}

func (p *pod) current() *corev1.Pod {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.object
}

// deleted is how long the programs have to end; ok is false if the pod is to run.
func (p *pod) deleted() (grace time.Duration, ok bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	switch {
	case p.removed:
		return 0, true
	case p.object.DeletionTimestamp == nil:
		return 0, false
	case p.object.DeletionGracePeriodSeconds == nil:
		return 0, true
	default:
		return time.Duration(*p.object.DeletionGracePeriodSeconds) * time.Second, true
	}
}

// run runs the pod until it is deleted or the node ends.
func (p *pod) run() {
	life := p.life
	programs, end := context.WithCancel(life)
	defer end()
	var running sync.WaitGroup
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		if grace, deleted := p.deleted(); deleted {
			p.setGrace(grace)
			end()
			running.Wait()
			if life.Err() == nil {
				p.remove(life)
			}
			return
		}
		if err := p.sync(programs, &running); err != nil && life.Err() == nil {
			klog.V(2).InfoS("Pod is not as it should be yet", "pod", klog.KRef(p.namespace, p.name), "err", err)
		}
		select {
		case <-life.Done():
			running.Wait()
			return
		case <-p.change:
		case <-tick.C:
		}
	}
}

// sync brings the volumes up to date, starts the programs once, and writes the status.
func (p *pod) sync(programs context.Context, running *sync.WaitGroup) error {
	err := p.prepare(programs)
	if err == nil && p.containers == nil {
		p.start(programs, running)
	}
	p.mutex.Lock()
	p.waiting = err
	p.mutex.Unlock()
	return errors.Join(err, p.report(programs))
}

// prepare is what has to be there before the programs start, and is kept up to date.
func (p *pod) prepare(ctx context.Context) error {
	object := p.current()
	for _, spec := range allContainers(object) {
		if _, known := p.kubelet.Programs[imageName(spec.Image)]; !known {
			return fmt.Errorf("image %s cannot be run", spec.Image)
		}
	}
	if p.address == "" {
		address, err := freeAddress(object)
		if err != nil {
			return err
		}
		p.address = address
	}
	where, err := p.mount(ctx, object)
	if err != nil {
		return err
	}
	if p.containers != nil {
		return nil
	}
	p.paths = where
	if err := p.prepareClaims(ctx, object); err != nil {
		return err
	}
	if err := p.kubelet.plugins.allocate(ctx, object); err != nil {
		return err
	}
	return p.initialise(ctx, object)
}

// initialise runs the init containers that end, one after the other.
func (p *pod) initialise(ctx context.Context, object *corev1.Pod) error {
	for _, spec := range object.Spec.InitContainers {
		if isSidecar(spec) {
			continue
		}
		if err := (&container{pod: p, spec: spec}).runToEnd(ctx); err != nil {
			return fmt.Errorf("init container %s: %w", spec.Name, err)
		}
	}
	return nil
}

func isSidecar(spec corev1.Container) bool {
	return spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// allContainers are those that run together, of which the first are init containers.
func allContainers(object *corev1.Pod) []corev1.Container {
	var all []corev1.Container
	for _, spec := range object.Spec.InitContainers {
		if isSidecar(spec) {
			all = append(all, spec)
		}
	}
	return append(all, object.Spec.Containers...)
}

func (p *pod) start(ctx context.Context, running *sync.WaitGroup) {
	object := p.current()
	specs := allContainers(object)
	containers := make([]*container, 0, len(specs))
	for i, spec := range specs {
		containers = append(containers, &container{pod: p, spec: spec, init: i < len(specs)-len(object.Spec.Containers)})
	}
	p.mutex.Lock()
	p.containers = containers
	p.mutex.Unlock()
	for _, c := range containers {
		running.Go(func() { c.run(ctx) })
	}
}

// setGrace bounds how long the programs may take to end.
func (p *pod) setGrace(grace time.Duration) {
	for _, c := range p.containers {
		c.grace.Store(int64(grace))
	}
}

// remove removes the volumes and the object, after the programs have ended. As long as a
// claim cannot be given back, because its driver is away, the object stays.
func (p *pod) remove(ctx context.Context) {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		err := p.tryToRemove(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			klog.ErrorS(err, "Cannot remove a pod", "pod", klog.KRef(p.namespace, p.name))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *pod) tryToRemove(ctx context.Context) error {
	if err := p.unprepareClaims(ctx); err != nil {
		return err
	}
	p.kubelet.plugins.free(p.current().UID)
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	options := metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(p.current().UID))}
	err := p.kubelet.client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// freeAddress returns an address of the loopback interface on which the ports of a pod are free.
func freeAddress(object *corev1.Pod) (string, error) {
	for range addressTries {
		address := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		free := true
		for _, c := range allContainers(object) {
			for _, port := range c.Ports {
				listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(int(port.ContainerPort))))
				if err != nil {
					free = false
					continue
				}
				_ = listener.Close()
			}
		}
		if free {
			return address, nil
		}
	}
	return "", errors.New("find an address of 127.0.0.0/8 with the pod's ports free: none found")
}
