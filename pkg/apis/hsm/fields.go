// SPDX-License-Identifier: Apache-2.0

package hsm

// The fields, beside metadata.name and metadata.namespace, by which HSMSecrets
// can be selected. A client may write "type", as for a core Secret, in place of
// SecretTypeField; the versioned packages convert it.
const (
	HSMPathField    = "spec.hsmPath"
	SecretNameField = "spec.secretName"
	SecretTypeField = "spec.secretType"
)
