// SPDX-License-Identifier: Apache-2.0

// Package agentname owns the name of a token's agent: one name for its Deployment, its
// Service and its certificate, made from the token's serial number alone. It keeps no
// list of names.
package agentname

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// ObjectLabel is on all objects of an agent, its pods too. Its value is the agent's name.
const ObjectLabel = "hsm.j5t.io/agent"

const (
	prefix = "hsm-agent-"
	// slugLength and hashLength keep a name within the 63 characters of a DNS
	// label, with room for what a Deployment adds to the names of its pods.
	slugLength = 20
	hashLength = 10
)

// For returns the name of the agent of the token with a serial number. It is a DNS
// label (RFC 1123) of at most 41 characters. It ends in a hash of the whole serial
// number, so numbers that differ only in case, in odd characters or after the first
// characters have different names too.
func For(serial string) string { return prefix + Label(serial) }

// Label is the part of the name that depends on the token: a DNS label of at most 31
// characters.
func Label(serial string) string {
	sum := sha256.Sum256([]byte(serial))
	return slug(serial) + hex.EncodeToString(sum[:])[:hashLength]
}

// ServerName is the name in the certificate of the agent of a token: that of its
// Service in the namespace.
func ServerName(serial, namespace string) string {
	return For(serial) + "." + namespace + ".svc"
}

// slug is the readable part of a name, with a hyphen at its end. It may be empty.
func slug(serial string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(serial) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		}
		if b.Len() == slugLength {
			break
		}
	}
	if b.Len() > 0 {
		b.WriteByte('-')
	}
	return b.String()
}
