// SPDX-License-Identifier: Apache-2.0

package kubelet

import "testing"

func TestExpand(t *testing.T) {
	t.Parallel()
	variables := map[string]string{"IP": "127.0.0.1", "EMPTY": ""}
	for text, want := range map[string]string{
		"--listen=$(IP):9443":  "--listen=127.0.0.1:9443",
		"$(IP)$(EMPTY)$(IP)":   "127.0.0.1127.0.0.1",
		"$(OTHER) $IP $( IP )": "$(OTHER) $IP $( IP )",
		"$$(IP) $$$(IP)":       "$(IP) $127.0.0.1",
	} {
		if got := expand(text, variables); got != want {
			t.Errorf("expand(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	m := mounts{"/tls": "/m/a", "/tls/inner": "/m/b", "/host/sys": "/m/sys"}
	for text, want := range map[string]string{
		"--cert=/tls/tls.crt":       "--cert=/m/a/tls.crt",
		"/tls":                      "/m/a",
		"--file=/tls/inner/x":       "--file=/m/b/x",
		"--file=/tls/innermost":     "--file=/m/a/innermost",
		"--sysfs-root=/host/sys":    "--sysfs-root=/m/sys",
		"--file=/other/tls/x":       "--file=/other/tls/x",
		"--file=/tlsx":              "--file=/tlsx",
		"/tls/a:/tls/b,/host/sys/c": "/m/a/a:/m/a/b,/m/sys/c",
	} {
		if got := m.rewrite(text); got != want {
			t.Errorf("rewrite(%q) = %q, want %q", text, got, want)
		}
	}
	if got := (mounts{}).rewrite("/tls"); got != "/tls" {
		t.Errorf("without mounts /tls becomes %q", got)
	}
}

func TestImageName(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"hsm-agent":     "hsm-agent",
		"hsm-agent:1.2": "hsm-agent",
		"registry.example.com:5000/a/hsm-agent:v1":      "hsm-agent",
		"example.com/hsm-agent@sha256:0123456789abcdef": "hsm-agent",
	} {
		if got := imageName(image); got != want {
			t.Errorf("imageName(%q) = %q, want %q", image, got, want)
		}
	}
}
