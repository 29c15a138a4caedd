// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"j5t.io/hsm/test/framework/await"
)

const (
	// lastObject is the last in a list, so that who prints a list and then what
	// happens shows where the list ends; and what kubectl waits for happens to it.
	lastObject = "zz-last"
	turn       = "turn"
)

// kubectlWatch follows as someone does who calls "kubectl get --watch" again when
// it has ended, which it does with its stream. It prints what there is and then
// what happens.
func (o *observer) kubectlWatch(ctx context.Context, t *testing.T, namespace string) {
	kubectl := hsm.Kubectl(hsm.AdminKubeconfig)
	known := map[string]string{}
	for ctx.Err() == nil {
		// Chunks of a list would be printed as one object each.
		cmd := exec.CommandContext(ctx, kubectl.Path, "get", "hsmsecrets", "--namespace="+namespace, "--watch", "--output-watch-events", "--chunk-size=0",
			`--output=jsonpath={.type} {.object.metadata.name} {.object.metadata.resourceVersion}{"\n"}`)
		cmd.Env = append(os.Environ(), kubectl.Env...)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Errorf("%s: %v", o.name, err)
			return
		}
		o.read(bufio.NewScanner(out), known)
		_ = cmd.Wait() // The replica that it watched has ended.
	}
}

// read takes what one kubectl prints.
func (o *observer) read(lines *bufio.Scanner, known map[string]string) {
	listed := map[string]string{}
	for following := false; lines.Scan(); {
		var kind watch.EventType
		object := &metav1.ObjectMeta{}
		if _, err := fmt.Sscan(lines.Text(), &kind, &object.Name, &object.ResourceVersion); err != nil {
			continue // Killed in the middle of a line.
		}
		switch {
		case following && kind == watch.Deleted:
			delete(known, object.Name)
			o.add(kind, object)
		case following:
			known[object.Name] = object.ResourceVersion
			o.add(kind, object)
		default:
			listed[object.Name] = object.ResourceVersion
			if following = object.Name == lastObject; following {
				o.replace(known, listed)
			}
		}
	}
}

// replace adds what has changed from one list to another, as an informer does.
func (o *observer) replace(known, listed map[string]string) {
	for name, version := range known {
		if _, there := listed[name]; !there {
			delete(known, name)
			o.add(watch.Deleted, &metav1.ObjectMeta{Name: name, ResourceVersion: version})
		}
	}
	for name, version := range listed {
		kind := watch.Modified
		if _, there := known[name]; !there {
			kind = watch.Added
		}
		if known[name] != version {
			o.add(kind, &metav1.ObjectMeta{Name: name, ResourceVersion: version})
		}
		known[name] = version
	}
}

// kubectlWait lets "kubectl wait" wait for a turn. The channel gives its error.
func kubectlWait(ctx context.Context, namespace string, n int) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, _, err := hsm.Kubectl(hsm.AdminKubeconfig).Run(ctx, "wait", "hsmsecret/"+lastObject, "--namespace="+namespace,
			fmt.Sprintf("--for=jsonpath={.metadata.annotations.%s}=%d", turn, n), "--timeout=1h")
		result <- err
	}()
	return result
}

// takeTurn is what kubectl waits for. It is to learn of it soon.
func takeTurn(ctx context.Context, namespace string, n int, waiting <-chan error) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"%s":"%d"}}}`, turn, n)
	if _, err := secrets.HSMSecrets(namespace).Patch(ctx, lastObject, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	select {
	case err := <-waiting:
		return err
	case <-time.After(await.Limit(time.Minute)):
		return fmt.Errorf("kubectl wait has not learned of turn %d", n)
	}
}
