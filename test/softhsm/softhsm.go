// SPDX-License-Identifier: Apache-2.0

// Package softhsm owns the SoftHSM 2 tokens of tests and of the demo: it finds
// the module, makes tokens in directories of their own, and removes them. It
// never touches the machine's own SoftHSM configuration.
//
// SoftHSM reads the path of its configuration from the environment, at each
// C_Initialize, and keeps one state per loaded library. So the tokens of one
// test process lie in one directory under one configuration, and are told apart
// by serial; and each token comes with its own copy of the library, which the
// loader takes for another one: C_Finalize in one test does not end the
// sessions of the next. A child process gets the configuration by Token.Env.
package softhsm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

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
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",              // Homebrew, arm64
	"/home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so", // Homebrew, Linux
}

// Token is a SoftHSM token.
type Token struct {
	Library   string // Path of the PKCS#11 module to load.
	Conf      string // Path of the configuration, the value of SOFTHSM2_CONF.
	Dir       string // The token's own directory: every byte that it stores.
	Serial    string
	Label     string
	PIN       string // Of the user; of a blank token, the one that it is to get.
	SOPIN     string // Of the security officer.
	PINFile   string // Holds PIN and a newline.
	SOPINFile string // Holds SOPIN and a newline.
}

// Env is what a child process needs in its environment to see the token.
func (t Token) Env() []string { return []string{confVariable + "=" + t.Conf} }

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

// Create makes a token with a user PIN under dir, beside any that were made
// there before, and its PIN files in dir. It sets SOFTHSM2_CONF of this process
// to dir's configuration.
func Create(dir, label, pin string) (Token, error) {
	library, err := Module()
	if err != nil {
		return Token{}, err
	}
	t, err := create(dir, library, label, pin)
	if err != nil {
		return Token{}, err
	}
	return t, t.writePINFiles(dir, pin)
}

// creating allows one creation at a time: it sets the process's environment,
// and tells the new token by the new directory.
var creating sync.Mutex

// create makes a token under dir through a library that is not open. With an
// empty PIN it stays blank: formatted, with a serial and an SO PIN, but without
// a user PIN, as a hardware token is sold.
func create(dir, library, label, pin string) (Token, error) {
	creating.Lock()
	defer creating.Unlock()
	t := Token{Library: library, Conf: filepath.Join(dir, "softhsm2.conf"), Label: label, SOPIN: randomHex()}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return Token{}, err
	}
	if err := configure(t.Conf, tokens); err != nil {
		return Token{}, err
	}
	before, err := os.ReadDir(tokens)
	if err != nil {
		return Token{}, err
	}
	if t.Serial, err = format(library, label, t.SOPIN, pin); err != nil {
		return Token{}, fmt.Errorf("make SoftHSM token %q: %w", label, err)
	}
	after, err := os.ReadDir(tokens)
	if err != nil {
		return Token{}, err
	}
	old := map[string]bool{}
	for _, entry := range before {
		old[entry.Name()] = true
	}
	for _, entry := range after {
		if !old[entry.Name()] {
			t.Dir = filepath.Join(tokens, entry.Name())
		}
	}
	return t, nil
}

// configure writes the configuration if it is not there yet: a module of this
// process may be reading it.
func configure(conf, tokens string) error {
	if err := os.Setenv(confVariable, conf); err != nil {
		return err
	}
	if _, err := os.Stat(conf); err == nil {
		return nil
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokens)
	return os.WriteFile(conf, []byte(text), 0o600)
}

// format initialises the empty slot that SoftHSM always offers, and returns the
// serial that the new token gave itself.
func format(library, label, soPIN, pin string) (serial string, err error) {
	module, err := pkcs11.Open(library)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	seen, err := module.Tokens()
	if err != nil {
		return "", err
	}
	for _, t := range seen {
		if t.Initialized {
			continue
		}
		if err := module.InitToken(t.SlotID, []byte(soPIN), label); err != nil {
			return "", err
		}
		if pin != "" {
			if err := module.InitPIN(t.SlotID, []byte(soPIN), []byte(pin)); err != nil {
				return "", err
			}
		}
		t, err := module.TokenInfo(t.SlotID)
		return t.Serial, err
	}
	return "", errors.New("SoftHSM offers no empty slot")
}

func (t *Token) writePINFiles(dir, pin string) error {
	t.PIN = pin
	t.PINFile = filepath.Join(dir, t.Serial+".pin")
	t.SOPINFile = filepath.Join(dir, t.Serial+".so-pin")
	return errors.Join(
		os.WriteFile(t.PINFile, []byte(pin+"\n"), 0o600),
		os.WriteFile(t.SOPINFile, []byte(t.SOPIN+"\n"), 0o600))
}

// randomHex returns a PIN of 16 hex digits, which every token takes as an SO PIN.
func randomHex() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // Never fails.
	return hex.EncodeToString(b)
}
