// SPDX-License-Identifier: Apache-2.0

package hsm

// PathPrefix begins the paths that belong to a namespace.
func PathPrefix(namespace string) string {
	return "secrets/" + namespace + "/"
}

// DefaultPath is the path of an HSMSecret whose spec.hsmPath is empty.
func (s *HSMSecret) DefaultPath() string {
	return PathPrefix(s.Namespace) + s.Name
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
