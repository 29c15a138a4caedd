// SPDX-License-Identifier: Apache-2.0

package allocatable_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

// TestTracker takes scans one after another. Each is at a second, and of the HSMDevices
// short (a grace period of 10 s) and long, which has no HSMPool.
func TestTracker(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 24, 11, 22, 33, 0, time.UTC)
	short, long := types.NamespacedName{Name: "short"}, types.NamespacedName{Name: "long"}
	on := func(hsmDevice types.NamespacedName, serial, path string) allocatable.Token {
		return allocatable.Token{HSMDevice: hsmDevice, Device: sysfs.Device{Serial: serial, Path: path}}
	}
	var tracker allocatable.Tracker
	tracker.Restore([]allocatable.Device{
		{Name: attribute.DeviceName("old"), Path: "/dev/old", Attributes: map[string]string{attribute.Serial: "old", attribute.HSMDevice: "/short"}},
	})
	for _, look := range []struct {
		second  int
		unknown bool
		tokens  []allocatable.Token
		want    []string
	}{
		{0, true, nil, []string{"old@"}},
		{1, true, []allocatable.Token{on(long, "a", "/dev/a")}, []string{"a@/dev/a", "old@"}},
		{2, false, []allocatable.Token{on(long, "a", "/dev/a"), on(short, "b", "/dev/b")}, []string{"a@/dev/a", "b@/dev/b", "old@ lost 2s"}},
		{3, true, []allocatable.Token{on(long, "a", "/dev/a")}, []string{"a@/dev/a", "b@/dev/b", "old@ lost 2s"}},
		{4, false, []allocatable.Token{on(long, "b", "/dev/b")}, []string{"a@ lost 4s", "b@/dev/b", "old@ lost 2s"}},
		{12, false, []allocatable.Token{on(long, "b", "/dev/b")}, []string{"a@ lost 4s", "b@/dev/b", "old@ lost 2s"}},
		// An unknown HSMDevice's tokens are kept, however long.
		{99, true, nil, []string{"a@ lost 4s", "b@ lost 1m39s", "old@ lost 2s"}},
		{100, false, []allocatable.Token{on(short, "b", "/dev/c")}, []string{"a@ lost 4s", "b@/dev/c"}},
		{304, false, nil, []string{"a@ lost 4s", "b@ lost 5m4s"}},
		{305, false, nil, []string{"b@ lost 5m4s"}},
		{315, false, nil, nil},
	} {
		tracker.Update(allocatable.Scan{Tokens: look.tokens, Time: began.Add(time.Duration(look.second) * time.Second), HSMDevices: map[types.NamespacedName]allocatable.HSMDevice{
			short: {Unknown: look.unknown, GracePeriod: 10 * time.Second}, long: {},
		}})
		var got []string
		for _, device := range tracker.Devices() {
			text := device.Attributes[attribute.Serial] + "@" + device.Path
			if !device.Lost.IsZero() {
				text += fmt.Sprint(" lost ", device.Lost.Sub(began))
			}
			got = append(got, text)
		}
		if !slices.Equal(got, look.want) {
			t.Errorf("second %d: got %q, want %q", look.second, got, look.want)
		}
	}
}
