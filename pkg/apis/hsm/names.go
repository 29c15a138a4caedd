// SPDX-License-Identifier: Apache-2.0

package hsm

import "strings"

// pathRoot begins the paths that belong to a namespace.
const pathRoot = "secrets/"

// PathPrefix begins the paths that belong to one namespace.
func PathPrefix(namespace string) string {
	return pathRoot + namespace + "/"
}

// DefaultPath is the path of an HSMSecret whose spec.hsmPath is empty.
func (s *HSMSecret) DefaultPath() string {
	return PathPrefix(s.Namespace) + s.Name
}

// HasDefaultPath reports whether spec.hsmPath spells DefaultPath out. It is asked for each
// object of a list, and allocates nothing.
func (s *HSMSecret) HasDefaultPath() bool {
	rest, below := strings.CutPrefix(s.Spec.HSMPath, pathRoot)
	namespace, name, _ := strings.Cut(rest, "/")
	return below && namespace == s.Namespace && name == s.Name
}

// Path is the address on the token.
func (s *HSMSecret) Path() string {
	if s.Spec.HSMPath != "" {
		return s.Spec.HSMPath
	}
	return s.DefaultPath()
}

// SecretName is the name of the projected Secret.
func (s *HSMSecret) SecretName() string {
	if s.Spec.SecretName != "" {
		return s.Spec.SecretName
	}
	return s.Name
}
