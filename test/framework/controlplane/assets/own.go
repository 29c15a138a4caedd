// SPDX-License-Identifier: Apache-2.0

package assets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// released are the flags with which the Makefile builds what is released.
var released = []string{"-tags=grpcnotrace"}

// Own builds cmd/NAME of this checkout, as it is released, and returns the path of the binary,
// which lies in the user's cache folder. Go's own cache makes it a matter of a second when
// nothing has changed.
func Own(ctx context.Context, progress io.Writer, name string) (string, error) {
	return own(ctx, progress, name, "", released)
}

// OwnWithRaces is Own with the race detector, if the caller has it: for tests of what happens
// at once. The binary is slower at everything.
func OwnWithRaces(ctx context.Context, progress io.Writer, name string) (string, error) {
	if !raceDetector {
		return Own(ctx, progress, name)
	}
	// With the tags, all that uses gRPC would be built twice, for the tests and for the binaries.
	return own(ctx, progress, name, "-race", []string{"-race"})
}

func own(ctx context.Context, progress io.Writer, name, suffix string, flags []string) (string, error) {
	root, err := Checkout(ctx)
	if err != nil {
		return "", err
	}
	return keep(ctx, progress, root, suffix, goBuild{name: name, dir: root, args: append(slices.Clone(flags), "./cmd/"+name)})
}

// keep builds what belongs to the checkout at root into the user's cache folder, and returns the
// path of the binary.
func keep(ctx context.Context, progress io.Writer, root, suffix string, b goBuild) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	// Two checkouts must not overwrite each other's binaries.
	checkout := sha256.Sum256([]byte(root))
	dir = filepath.Join(dir, "bin-"+hex.EncodeToString(checkout[:8])+suffix)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make folder for %s: %w", b.name, err)
	}
	b.output = filepath.Join(dir, b.name)
	unlock, err := lock(ctx, filepath.Base(dir))
	if err != nil {
		return "", err
	}
	defer unlock()
	// Go renames nothing into place, but it removes an old binary first, so that a process that
	// runs it is not disturbed.
	return b.output, build(ctx, progress, b)
}
