// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/klog/v2"
)

const killSignal = syscall.SIGKILL

// probe asks one run of a container as its probes say, until ctx ends: the startup probe
// until it succeeds, then the others. The first is asked at once.
func (c *container) probe(ctx context.Context) {
	if !c.repeat(ctx, c.spec.StartupProbe, func(healthy, lasting bool) (done bool) {
		if !healthy && lasting {
			c.kill()
		}
		return healthy
	}) {
		return
	}
	c.set(func() { c.started = true })
	if c.spec.ReadinessProbe == nil {
		c.set(func() { c.ready = true })
	}
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		c.repeat(ctx, c.spec.LivenessProbe, func(healthy, lasting bool) bool {
			if !healthy && lasting {
				c.kill()
			}
			return false
		})
	})
	c.repeat(ctx, c.spec.ReadinessProbe, func(healthy, lasting bool) bool {
		if lasting {
			c.setReady(healthy)
		}
		return false
	})
}

func (c *container) setReady(ready bool) {
	c.mutex.Lock()
	same := c.ready == ready
	c.mutex.Unlock()
	if !same {
		c.set(func() { c.ready = ready })
	}
}

// repeat asks a probe until tell is done, which it says. lasting: the answer has been the
// same as often as the probe's threshold says. Without a probe all is well.
func (c *container) repeat(ctx context.Context, probe *corev1.Probe, tell func(healthy, lasting bool) (done bool)) bool {
	if probe == nil {
		return true
	}
	timer := time.NewTimer(time.Duration(probe.InitialDelaySeconds) * time.Second)
	defer timer.Stop()
	count, last := int32(0), false
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
		err := c.ask(ctx, probe)
		if ctx.Err() != nil {
			return false
		}
		healthy := err == nil
		if !healthy {
			klog.V(4).InfoS("Probe failed", "pod", klog.KRef(c.pod.namespace, c.pod.name), "container", c.spec.Name, "err", err)
		}
		if healthy != last {
			count, last = 0, healthy
		}
		count++
		threshold := probe.FailureThreshold
		if healthy {
			threshold = probe.SuccessThreshold
		}
		if tell(healthy, count >= threshold) {
			return true
		}
		timer.Reset(time.Duration(probe.PeriodSeconds) * time.Second)
	}
}

// ask asks once. The defaults of a probe are set by kube-apiserver.
func (c *container) ask(ctx context.Context, probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(probe.TimeoutSeconds)*time.Second)
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return c.askHTTP(ctx, probe.HTTPGet)
	case probe.GRPC != nil:
		return c.askGRPC(ctx, probe.GRPC)
	case probe.Exec != nil:
		return c.askExec(ctx, probe.Exec)
	case probe.TCPSocket != nil:
		address, err := c.address(probe.TCPSocket.Port)
		if err != nil {
			return err
		}
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return connection.Close()
	default:
		return errors.New("the probe asks nothing")
	}
}

func (c *container) address(port intstr.IntOrString) (string, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.spec.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if number == 0 {
		return "", fmt.Errorf("container %s has no port %q", c.spec.Name, port.String())
	}
	return net.JoinHostPort(c.pod.address, strconv.Itoa(number)), nil
}

func (c *container) askHTTP(ctx context.Context, get *corev1.HTTPGetAction) error {
	address, err := c.address(get.Port)
	if err != nil {
		return err
	}
	url := strings.ToLower(string(get.Scheme)) + "://" + address + "/" + strings.TrimPrefix(get.Path, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	// kubelet does not look at the certificate either.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

func (c *container) askGRPC(ctx context.Context, action *corev1.GRPCAction) error {
	address, err := c.address(intstr.FromInt32(action.Port))
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	request := &grpc_health_v1.HealthCheckRequest{}
	if action.Service != nil {
		request.Service = *action.Service
	}
	response, err := grpc_health_v1.NewHealthClient(connection).Check(ctx, request)
	if err == nil && response.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("it says %s", response.GetStatus())
	}
	return err
}

// askExec runs the program of the container with the probe's arguments.
func (c *container) askExec(ctx context.Context, action *corev1.ExecAction) error {
	spec, err := c.processSpec()
	if err != nil {
		return err
	}
	// kubelet knows only the variables with a constant value here.
	constants := map[string]string{}
	for _, variable := range c.spec.Env {
		if variable.ValueFrom == nil {
			constants[variable.Name] = variable.Value
		}
	}
	mounts := c.pod.paths.of(c.spec)
	var args []string
	for _, arg := range action.Command[1:] {
		args = append(args, mounts.rewrite(expand(arg, constants)))
	}
	cmd := exec.CommandContext(ctx, spec.Path, args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w: %s", action.Command, err, output)
	}
	return nil
}
