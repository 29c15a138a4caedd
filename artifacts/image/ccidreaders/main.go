// SPDX-License-Identifier: Apache-2.0

// Command ccidreaders adds to libccid's list of readers (Info.plist) the tokens that discovery
// knows and the list lacks. The build of the agent's image runs it: pcscd ignores a reader
// that is not on the list, so the token would be discovered, and never be seen by its agent.
package main

import (
	"fmt"
	"os"

	"j5t.io/hsm/pkg/discovery/known"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: ccidreaders INFO-PLIST")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "ccidreaders:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	table, err := known.New()
	if err != nil {
		return err
	}
	list, err := os.ReadFile(path) //nolint:gosec // The file that the caller names.
	if err != nil {
		return err
	}
	completed, added, err := table.CompleteReaders(list)
	if err != nil {
		return fmt.Errorf("complete the readers of %s: %w", path, err)
	}
	for _, row := range added {
		fmt.Printf("%s: added %s:%s %s\n", path, row.VendorID, row.ProductID, row.Name)
	}
	// In place: the file may be the target of a link, and its mode stays.
	return os.WriteFile(path, completed, 0o644) //nolint:gosec // It is public, as it was.
}
