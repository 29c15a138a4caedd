// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// reference is $(NAME), or $$, which stands for one $ that begins no reference.
var reference = regexp.MustCompile(`\$\$|\$\([-._a-zA-Z][-._a-zA-Z0-9]*\)`)

// expand puts the values of variables in place of their references, as kubelet does.
// A reference to a variable that there is not stays.
func expand(text string, variables map[string]string) string {
	return reference.ReplaceAllStringFunc(text, func(match string) string {
		if match == "$$" {
			return "$"
		}
		if value, known := variables[match[2:len(match)-1]]; known {
			return value
		}
		return match
	})
}

// paths are where the volumes of a pod lie on this machine, by their names.
type paths struct {
	volumes map[string]string
	// kubeconfig is that of the pod's ServiceAccount; empty if it has none.
	kubeconfig string
}

// mounts are paths in a container and where they are on this machine.
type mounts map[string]string

func (p paths) of(spec corev1.Container) mounts {
	m := mounts{}
	for _, mount := range spec.VolumeMounts {
		m[strings.TrimSuffix(mount.MountPath, "/")] = p.volumes[mount.Name]
	}
	return m
}

// rewrite puts paths of this machine in place of paths in the container. Such a path
// begins a text or follows one of = : , and ends it or is followed by one of / : ,
func (m mounts) rewrite(text string) string {
	if len(m) == 0 {
		return text
	}
	var names []string
	for name := range m {
		names = append(names, regexp.QuoteMeta(name))
	}
	// A mount may lie in another one.
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	pattern := regexp.MustCompile(`(^|[=:,])(` + strings.Join(names, "|") + `)($|[/:,])`)
	return pattern.ReplaceAllStringFunc(text, func(match string) string {
		parts := pattern.FindStringSubmatch(match)
		return parts[1] + m[parts[2]] + parts[3]
	})
}
