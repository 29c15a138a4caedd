// SPDX-License-Identifier: Apache-2.0

package pinlatch

import (
	"bytes"
	"fmt"
	"os"
)

// maxPIN is the longest PIN that is sent, in bytes. Hardware tokens take at most
// 15 to 32; a longer file is not a PIN file.
const maxPIN = 64

// ReadPIN reads a PIN file: the PIN, and at most one line end after it. The
// caller zeroes the result with clear when it is done.
//
// A file that others may write is refused: it would let them use up the tries.
func ReadPIN(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the PIN file: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("PIN file %s may be written by others (mode %04o): chmod go-w it", path, info.Mode().Perm())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the PIN file: %w", err)
	}
	pin, ended := bytes.CutSuffix(content, []byte("\n"))
	if ended {
		pin = bytes.TrimSuffix(pin, []byte("\r"))
	}
	if problem := unfit(pin); problem != "" {
		clear(content)
		return nil, fmt.Errorf("PIN file %s %s", path, problem)
	}
	return pin, nil
}

// unfit says what is wrong with the PIN, without showing any of it.
func unfit(pin []byte) string {
	if len(pin) == 0 {
		return "is empty: write the PIN to it"
	}
	if len(pin) > maxPIN {
		return fmt.Sprintf("holds more than %d bytes: that is no PIN", maxPIN)
	}
	for _, b := range pin {
		if b < ' ' || b == 0x7f {
			return "holds more than one line, or control characters: it must hold the PIN and nothing else"
		}
	}
	return ""
}
