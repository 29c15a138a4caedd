// SPDX-License-Identifier: Apache-2.0

// Command testreport reads what "go test -json" writes. It shows each package as it ends, what still
// runs, and the output of what failed. At the end it repeats the figures that tests printed and says
// what was run. Its one argument, if there is one, is the number of packages that will run.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	r := newReport(os.Stdout)
	if len(os.Args) > 1 {
		var err error
		if r.expected, err = strconv.Atoi(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "testreport: the number of packages:", err)
			os.Exit(2)
		}
	}
	if err := r.read(os.Stdin, time.Tick(progressInterval)); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.finish() {
		os.Exit(1)
	}
}
