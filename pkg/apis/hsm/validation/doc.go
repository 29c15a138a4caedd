// SPDX-License-Identifier: Apache-2.0

// Package validation holds the rules of the API types that +k8s: tags cannot
// say; the others are tags on the fields of the versioned types. It looks at
// objects only, never at the request or the token.
package validation
