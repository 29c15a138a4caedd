// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/test/framework/process"
)

// restartDelay is the time between two runs of a program. kubelet begins with 10 s, and
// doubles it: too long for a test, and it is not what is tested.
const restartDelay = time.Second

// container runs one program again and again.
type container struct {
	pod  *pod
	spec corev1.Container
	init bool
	// grace is how long the program may take to end, in nanoseconds.
	grace atomic.Int64

	mutex    sync.Mutex
	process  *process.Process // nil between two runs
	since    metav1.Time
	ready    bool
	started  bool // the startup probe has succeeded
	restarts int32
	problem  string // why it does not run
	exitCode int32  // of the last run
}

// run runs the program until ctx ends, and then ends it.
func (c *container) run(ctx context.Context) {
	if c.absent() {
		c.set(func() { c.since, c.ready, c.started = metav1.Now(), true, true })
		return
	}
	for {
		c.runOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartDelay):
		}
	}
}

// absent reports whether nothing runs for the container.
func (c *container) absent() bool {
	program := c.pod.kubelet.Programs[imageName(c.spec.Image)]
	return len(c.spec.Command) > 0 && slices.Contains(program.Absent, c.spec.Command[0])
}

// runToEnd runs the command of an init container, from this machine.
func (c *container) runToEnd(ctx context.Context) error {
	spec, err := c.processSpec()
	if err != nil {
		return err
	}
	if len(c.spec.Command) == 0 {
		return errors.New("it has no command")
	}
	spec.Path = c.spec.Command[0]
	spec.Args = slices.Concat(c.spec.Command[1:], spec.Args)
	p, err := process.Start(ctx, spec)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	case <-p.Done():
	}
	if code := p.ExitCode(); code != 0 {
		return fmt.Errorf("exit code %d, see %s", code, spec.LogFile)
	}
	return nil
}

func (c *container) runOnce(ctx context.Context) {
	spec, err := c.processSpec()
	if err == nil {
		c.set(func() { c.problem = "" })
		var p *process.Process
		if p, err = process.Start(ctx, spec); err == nil {
			c.attend(ctx, p)
			return
		}
	}
	c.set(func() { c.problem = err.Error() })
}

// attend probes a process that runs, until its end.
func (c *container) attend(ctx context.Context, p *process.Process) {
	c.set(func() { c.process, c.since = p, metav1.Now() })
	probes, end := context.WithCancel(ctx)
	var probing sync.WaitGroup
	probing.Go(func() { c.probe(probes) })
	select {
	case <-p.Done():
	case <-ctx.Done():
		c.stop(p)
	}
	end()
	probing.Wait()
	c.set(func() {
		c.process, c.ready, c.started = nil, false, false
		c.restarts++
		c.exitCode = int32(p.ExitCode())
		c.problem = fmt.Sprintf("ended with exit code %d", c.exitCode)
	})
}

// stop ends a process in order, while there is time: a power cut has none.
func (c *container) stop(p *process.Process) {
	grace := time.Duration(c.grace.Load())
	if grace == 0 || c.pod.life.Err() != nil {
		p.Kill()
		return
	}
	ctx, cancel := context.WithTimeout(c.pod.life, grace)
	defer cancel()
	_ = p.Stop(ctx) // How it ended is in its exit code.
}

// kill ends the run of now.
func (c *container) kill() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.process != nil {
		_ = c.process.Signal(killSignal) // It may have ended.
	}
}

// set changes the pod's status.
func (c *container) set(change func()) {
	c.mutex.Lock()
	change()
	c.mutex.Unlock()
	c.pod.notify()
}

func (c *container) processSpec() (process.Spec, error) {
	object := c.pod.current()
	program := c.pod.kubelet.Programs[imageName(c.spec.Image)]
	variables, err := c.variables(object)
	if err != nil {
		return process.Spec{}, err
	}
	paths := c.pod.paths.of(c.spec)
	spec := process.Spec{
		Name:    c.pod.name + "_" + c.spec.Name,
		Path:    program.Path,
		LogFile: c.pod.kubelet.Log(c.pod.name, c.spec.Name),
		Env:     c.pod.kubelet.Env,
	}
	for _, arg := range c.spec.Args {
		spec.Args = append(spec.Args, paths.rewrite(expand(arg, variables)))
	}
	if c.pod.paths.kubeconfig != "" {
		for _, flag := range program.KubeconfigFlags {
			spec.Args = append(spec.Args, "--"+flag+"="+c.pod.paths.kubeconfig)
		}
	}
	for flag, path := range program.NodePathFlags {
		spec.Args = append(spec.Args, "--"+flag+"="+filepath.Join(c.pod.kubelet.Root(), path))
	}
	for _, variable := range c.spec.Env {
		spec.Env = append(spec.Env, variable.Name+"="+paths.rewrite(variables[variable.Name]))
	}
	return spec, nil
}

// variables are the environment of the container. They can name those before them.
func (c *container) variables(object *corev1.Pod) (map[string]string, error) {
	values := map[string]string{}
	for _, variable := range c.spec.Env {
		if variable.ValueFrom == nil {
			values[variable.Name] = expand(variable.Value, values)
			continue
		}
		value, err := c.pod.field(object, variable.ValueFrom.FieldRef)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", variable.Name, err)
		}
		values[variable.Name] = value
	}
	return values, nil
}

// field is what a fieldRef gives.
func (p *pod) field(object *corev1.Pod, ref *corev1.ObjectFieldSelector) (string, error) {
	if ref == nil {
		return "", fmt.Errorf("of all sources only fieldRef can be used")
	}
	switch ref.FieldPath {
	case "status.podIP", "status.podIPs":
		return p.address, nil
	case "status.hostIP", "status.hostIPs":
		return hostAddress, nil
	case "metadata.name":
		return object.Name, nil
	case "metadata.namespace":
		return object.Namespace, nil
	case "metadata.uid":
		return string(object.UID), nil
	case "spec.nodeName":
		return object.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return object.Spec.ServiceAccountName, nil
	default:
		return "", fmt.Errorf("field %s cannot be used", ref.FieldPath)
	}
}

// imageName is an image without registry, path, tag and digest.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndex(image, "/")+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}
