// SPDX-License-Identifier: Apache-2.0

// Package softhsm owns the SoftHSM 2 tokens of tests and of the demo: it finds
// the module and makes tokens in directories of their own. It never touches the
// machine's own SoftHSM configuration or tokens.
package softhsm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"j5t.io/hsm/pkg/pkcs11"
)

const (
	// ModuleVariable names the environment variable that overrides the search
	// for SoftHSM's library.
	ModuleVariable = "SOFTHSM2_MODULE"
	confVariable   = "SOFTHSM2_CONF"
)

// modulePaths are where distributions put the library.
var modulePaths = []string{
	"/usr/lib/softhsm/libsofthsm2.so",                       // Debian, Ubuntu, Alpine
	"/usr/lib64/softhsm/libsofthsm.so",                      // Fedora
	"/usr/lib64/pkcs11/libsofthsm2.so",                      // Fedora, openSUSE
	"/usr/lib/libsofthsm2.so",                               // Arch
	"/usr/local/lib/softhsm/libsofthsm2.so",                 // from source
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",              // Homebrew, macOS
	"/home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so", // Homebrew, Linux
}

// Token is a SoftHSM token.
type Token struct {
	Library   string   // Path of the PKCS#11 module to load.
	Env       []string // What a child process needs in its environment to use it.
	Conf      string   // Path of the configuration.
	Dir       string   // Every byte that the token stores is under it.
	Serial    string
	Label     string
	PIN       string // Of the user; of a blank token, the one that it is to get.
	SOPIN     string // Of the security officer.
	PINFile   string // Holds PIN and a newline.
	SOPINFile string // Holds SOPIN and a newline.
}

// Module returns the path of SoftHSM's PKCS#11 library.
func Module() (string, error) {
	if path := os.Getenv(ModuleVariable); path != "" {
		return path, nil
	}
	for _, path := range modulePaths {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("SoftHSM 2 is not installed: install the package softhsm2 (Debian, Ubuntu) or softhsm (Fedora, Arch, "+
		"Alpine, Homebrew), or set %s to the path of libsofthsm2.so; looked at %s", ModuleVariable, strings.Join(modulePaths, ", "))
}

// Create makes a token with a user PIN, its configuration and its PIN files in a
// directory. It sets SOFTHSM2_CONF of this process. The module must not be open
// in this process.
func Create(dir, label, pin string) (Token, error) {
	library, err := Module()
	if err != nil {
		return Token{}, err
	}
	t := Token{Library: library, Label: label, PIN: pin}
	err = t.create(dir, confVariable, true)
	return t, err
}

// create makes the token and all its files. Without withPIN it stays blank: it
// has a serial and an SO PIN, but no user PIN, as a hardware token is sold.
func (t *Token) create(dir, variable string, withPIN bool) error {
	t.SOPIN = randomHex()
	t.Dir, t.Conf = filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	t.PINFile, t.SOPINFile = filepath.Join(dir, "pin"), filepath.Join(dir, "so-pin")
	t.Env = []string{variable + "=" + t.Conf}
	conf := "directories.tokendir = " + t.Dir + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	err := errors.Join(
		os.MkdirAll(t.Dir, 0o700),
		os.WriteFile(t.Conf, []byte(conf), 0o600),
		os.WriteFile(t.PINFile, []byte(t.PIN+"\n"), 0o600),
		os.WriteFile(t.SOPINFile, []byte(t.SOPIN+"\n"), 0o600),
		os.Setenv(variable, t.Conf))
	if err == nil {
		err = t.initialize(withPIN)
	}
	if err != nil {
		return fmt.Errorf("make SoftHSM token %q: %w", t.Label, err)
	}
	return nil
}

// initialize formats the empty slot that SoftHSM always offers.
func (t *Token) initialize(withPIN bool) (err error) {
	module, err := pkcs11.Open(t.Library)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	empty, err := module.Find(pkcs11.Selector{})
	if err != nil {
		return err
	}
	if err := module.InitToken(empty.SlotID, []byte(t.SOPIN), t.Label); err != nil {
		return err
	}
	if withPIN {
		if err := module.InitPIN(empty.SlotID, []byte(t.SOPIN), []byte(t.PIN), false); err != nil {
			return err
		}
	}
	formatted, err := module.TokenInfo(empty.SlotID)
	t.Serial = formatted.Serial // SoftHSM gives itself one.
	return err
}

// randomHex returns a PIN of 16 hex digits, which every token takes as an SO PIN.
func randomHex() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // Never fails.
	return hex.EncodeToString(b)
}
