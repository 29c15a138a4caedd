// SPDX-License-Identifier: Apache-2.0

//go:build !race

package assets

const raceSuffix = ""

// ownFlags are those of the Makefile. With the race detector they would have
// everything that uses gRPC built twice, for the tests and for the binaries.
var ownFlags = []string{"-tags=grpcnotrace"}
