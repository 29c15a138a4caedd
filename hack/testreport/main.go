// SPDX-License-Identifier: Apache-2.0

// Command testreport reads what "go test -json" writes. It shows each package as it ends and the output
// of what failed, and at the end repeats the figures that tests printed and says what was run.
package main

import (
	"fmt"
	"os"
)

func main() {
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.finish() {
		os.Exit(1)
	}
}
