// SPDX-License-Identifier: Apache-2.0

package agentname

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

func TestFor(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0", 125)
	seen := map[string]string{}
	for _, serial := range []string{
		"", "E6614C311B4FC726", "e6614c311b4fc726", "E6614C311B4FC72", "DENK0105100", "---", "a b", "a/b", "ab", "Ä1",
		long + "1", long + "2", strings.Repeat("x", 20), strings.Repeat("x", 21),
	} {
		name := For(serial)
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 || len(name) > 41 {
			t.Errorf("serial %q: name %q: %q", serial, name, problems)
		}
		if other, taken := seen[name]; taken {
			t.Errorf("serials %q and %q have the same name %q", serial, other, name)
		}
		seen[name] = serial
	}
	// It is in certificates and in the names of state directories: it never changes.
	if got, want := For("E6614C311B4FC726"), "hsm-agent-e6614c311b4fc726-8f70f4f5ec"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := ServerName("ab", "hsm-system"), For("ab")+".hsm-system.svc"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
