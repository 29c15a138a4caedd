// SPDX-License-Identifier: Apache-2.0

package uevent

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// outcome is what Receive returned.
type outcome struct {
	event Event
	err   error
}

// receive calls Receive until the listener is closed.
func receive(t *testing.T, listener *Listener) <-chan outcome {
	t.Helper()
	outcomes := make(chan outcome, 1<<10)
	go func() {
		defer close(outcomes)
		for {
			event, err := listener.Receive()
			outcomes <- outcome{event, err}
			if err != nil && !errors.Is(err, ErrOverflow) {
				return
			}
		}
	}()
	return outcomes
}

// TestKernel listens to the kernel. Where the machine lets the test ask the kernel for
// an event (a writable uevent attribute, and no user namespace of its own, into which no
// events are sent), that event must come. Everywhere the socket opens, and Close ends it.
func TestKernel(t *testing.T) {
	t.Parallel()
	listener, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	outcomes := receive(t, listener)

	id := uuid.NewString()
	// Documentation/ABI/testing/sysfs-uevent, since Linux 4.13.
	err = os.WriteFile("/sys/devices/virtual/mem/null/uevent", []byte("change "+id), 0)
	t.Logf("asked the kernel for an event: %v; in the first user namespace: %v", err, inFirstUserNamespace(t))
	if err == nil && inFirstUserNamespace(t) {
		deadline := time.After(5 * time.Minute)
		for found := false; !found; {
			select {
			case outcome := <-outcomes:
				if outcome.err != nil {
					t.Fatal(outcome.err)
				}
				event := outcome.event
				if found = event.Env["SYNTH_UUID"] == id; found && (event.Action != "change" || event.DevPath != "/devices/virtual/mem/null" || !event.ConcernsTokens()) {
					t.Errorf("got %+v", event)
				}
			case <-deadline:
				t.Fatal("the event did not come")
			}
		}
	}

	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	var last outcome
	for outcome := range outcomes {
		last = outcome
	}
	if !errors.Is(last.err, os.ErrClosed) {
		t.Errorf("after Close: %v", last.err)
	}
}

func inFirstUserNamespace(t *testing.T) bool {
	t.Helper()
	content, err := os.ReadFile("/proc/self/uid_map")
	if errors.Is(err, os.ErrNotExist) {
		return true // a kernel without user namespaces
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(content)), " ") == "0 0 4294967295"
}

// TestOverflow fills a real netlink socket: of the protocol on which processes may send,
// as only the kernel sends uevents.
func TestOverflow(t *testing.T) {
	t.Parallel()
	const group = 1 << 30
	listener, err := listen(unix.NETLINK_USERSOCK, group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	sender, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_USERSOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(sender) })
	for range 1 << 12 {
		err := unix.Sendto(sender, plugged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group})
		// After the group, a message goes to the kernel, which does not listen there.
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
	// The receiver hears that it lost some. What did arrive came from a process, and is no
	// event.
	outcomes := receive(t, listener)
	select {
	case outcome := <-outcomes:
		if !errors.Is(outcome.err, ErrOverflow) {
			t.Errorf("got %+v, want an overflow", outcome)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("no overflow")
	}
	listener.Close()
	for outcome := range outcomes {
		if outcome.err == nil {
			t.Errorf("took an event from a process: %+v", outcome.event)
		}
	}
}
