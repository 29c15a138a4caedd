// SPDX-License-Identifier: Apache-2.0

// +k8s:deepcopy-gen=package
// +groupName=hsm.j5t.io

// Package hsm holds the internal types of the API group hsm.j5t.io: what the
// server works with, whatever version a client speaks. It never appears on the
// wire or on a token; the comments that users read are in the versioned packages.
package hsm
