// SPDX-License-Identifier: Apache-2.0

package pinlatch

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/argon2"

	"j5t.io/hsm/pkg/atomicfile"
)

// latchFile is the content of the latch file.
type latchFile struct {
	Version int                   `json:"version"`
	Salt    []byte                `json:"salt"`
	Tokens  map[string]*pinRecord `json:"tokens"` // By serial.
}

const (
	version  = 1
	saltSize = 16
)

// tag tells one PIN from another: two bytes of a slow salted hash, in hex.
//
// While a login is under way the file holds the tag of what may be the right
// PIN, and a crash leaves it there. A whole hash would let whoever finds the
// file find a PIN of six digits by trying them all, in hours. Two bytes leave so
// many candidates that the token's tries do not suffice for a PIN of eight
// digits. The price: one PIN in 65,536 is taken for the one that was rejected,
// and waits for a person's permission.
type tag string

// Cost of a tag: argon2id by RFC 9106 with the parameters that OWASP names as
// the least, because the agent's memory is small: 19 MiB for some 30 ms.
const (
	argonTime    = 2
	argonThreads = 1
	argonSize    = 32
	tagSize      = 2
)

// argonMemory is in KiB. Tests take less.
var argonMemory uint32 = 19 * 1024

func (m *latchFile) tag(pin []byte) tag {
	sum := argon2.IDKey(pin, m.Salt, argonTime, argonMemory, argonThreads, argonSize)
	return tag(hex.EncodeToString(sum[:tagSize]))
}

// of returns what is known of a token, to be changed in place.
func (m *latchFile) of(serial string) *pinRecord {
	known := m.Tokens[serial]
	if known == nil {
		known = &pinRecord{}
		m.Tokens[serial] = known
	}
	return known
}

func (l *Latch) path() string { return filepath.Join(l.dir, fileName) }

// load reads the latch file. A file that cannot be understood allows no login.
func (l *Latch) load() (*latchFile, error) {
	content, err := os.ReadFile(l.path())
	if errors.Is(err, fs.ErrNotExist) {
		salt := make([]byte, saltSize)
		_, _ = rand.Read(salt) // Never fails.
		return &latchFile{Version: version, Salt: salt, Tokens: map[string]*pinRecord{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the PIN latch: %w", err)
	}
	m := &latchFile{}
	if err := json.Unmarshal(content, m); err != nil {
		return nil, l.damaged(err)
	}
	if m.Version != version || len(m.Salt) != saltSize || m.Tokens == nil {
		return nil, l.damaged(fmt.Errorf("version %d, salt of %d bytes", m.Version, len(m.Salt)))
	}
	return m, nil
}

func (l *Latch) damaged(cause error) error {
	return fmt.Errorf("the PIN latch %s is damaged, so no PIN is sent: check that the PIN file is right, then remove it: %w", l.path(), cause)
}

func (l *Latch) save(m *latchFile) error {
	content, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the PIN latch: %w", err)
	}
	if err := atomicfile.Replace(l.fs, l.path(), append(content, '\n')); err != nil {
		return fmt.Errorf("write the PIN latch: %w", err)
	}
	return nil
}
