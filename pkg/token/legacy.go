// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"slices"
	"strings"
)

const (
	// legacyApplication is CKA_APPLICATION of the older operator's objects.
	legacyApplication = "hsm-secrets-operator"
	// legacyMetadata is the last part of the label of an object with metadata.
	legacyMetadata = "_metadata"
	// legacyKey is the key whose object has the secret's own name for its label.
	legacyKey = "data"
)

// Legacy is a secret that the older operator keeps on the token: one object for
// each key, whose label is the secret's name, "/" and the key, or the name alone
// if the key is "data"; and one of metadata (hsm-secrets-operator,
// internal/hsm/pkcs11_client.go, WriteSecret).
type Legacy struct {
	// Name is a path; it may have slashes.
	Name string
	// Keys are in order.
	Keys     []string
	Metadata bool
}

// Legacy lists the secrets of the older operator, by name. Only labels are read,
// and nothing is ever changed.
func (s *Store) Legacy() []Legacy {
	labels := make([]string, len(s.legacy))
	for i, o := range s.legacy {
		labels[i] = o.Label
	}
	return parseLegacy(labels)
}

// parseLegacy tells names and keys apart. A label does not say where the name
// ends; one that has metadata, or of which another label is a key, is a name.
// All else is taken to be a name, a slash and a key, as the older operator does.
func parseLegacy(labels []string) []Legacy {
	found := map[string]*Legacy{}
	at := func(name string) *Legacy {
		if found[name] == nil {
			found[name] = &Legacy{Name: name}
		}
		return found[name]
	}
	for _, label := range labels {
		if name, ok := strings.CutSuffix(label, "/"+legacyMetadata); ok {
			at(name).Metadata = true
		}
	}
	for _, label := range labels {
		i := strings.LastIndexByte(label, '/')
		switch {
		case i >= 0 && label[i+1:] == legacyMetadata:
		case i < 0, found[label] != nil && found[label].Metadata:
			l := at(label)
			l.Keys = append(l.Keys, legacyKey)
		default:
			l := at(label[:i])
			l.Keys = append(l.Keys, label[i+1:])
		}
	}
	var all []Legacy
	for _, l := range found {
		slices.Sort(l.Keys)
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b Legacy) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
