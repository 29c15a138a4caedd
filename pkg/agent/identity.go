// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/shadow"
)

const (
	// storeIDFile lies in the state directory. It names the only store that this
	// agent serves: a token of another one would bring objects of another cluster.
	storeIDFile = "store-id"
	// shadowFile holds what the token holds, sealed as there. No request is served
	// from it.
	shadowFile = "shadow"
)

// identity is which store the agent serves.
type identity struct {
	dir       string
	storeID   string // Hex; empty: none yet.
	saved     bool
	provision bool
	profile   token.Profile // Zero: by what the token says of itself.
	shadow    *shadow.File
}

// newIdentity reads which store the agent has served before. wanted, if not
// empty, must be the same.
func newIdentity(dir, wanted string, provision bool, profile token.Profile) (*identity, error) {
	if _, err := hex.DecodeString(wanted); err != nil {
		return nil, fmt.Errorf("store id %q is not hexadecimal: %w", wanted, err)
	}
	i := &identity{
		dir: dir, provision: provision, profile: profile,
		shadow: shadow.New(atomicfile.OS{}, filepath.Join(dir, shadowFile)),
	}
	path := filepath.Join(dir, storeIDFile)
	content, err := os.ReadFile(path)
	saved := strings.TrimSpace(string(content))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		i.storeID = wanted
		return i, nil
	case err != nil:
		return nil, fmt.Errorf("read which store this agent serves: %w", err)
	case wanted != "" && wanted != saved:
		return nil, fmt.Errorf("this agent serves store %s (%s), not the wanted %s: use another state directory, or remove the file to serve another store", saved, path, wanted)
	}
	i.storeID, i.saved = saved, true
	return i, nil
}

func (i *identity) options() token.Options {
	return token.Options{StoreID: i.storeID, Provision: i.provision, Profile: i.profile, Shadow: i.shadow}
}

// remember writes down the store that was opened, for all time.
func (i *identity) remember(storeID string) error {
	if i.saved {
		return nil
	}
	if err := atomicfile.Replace(atomicfile.OS{}, filepath.Join(i.dir, storeIDFile), []byte(storeID+"\n")); err != nil {
		return fmt.Errorf("write down which store this agent serves: %w", err)
	}
	i.storeID, i.saved = storeID, true
	return nil
}
