// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/wal"
)

const (
	// storeIDFile lies in the state directory. It names the only store that this
	// agent serves: a token of another one would bring objects of another cluster.
	storeIDFile = "store-id"
	// shadowFile holds what the token holds, sealed as there. No request is served
	// from it.
	shadowFile = "shadow"
	// serialFile holds the serial numbers by which the token was found and by which it
	// calls itself, where these differ: another token in the same reader is another.
	serialFile = "token-serial"
	// profileFile holds the name of the profile that the token turned out to have when its
	// store was made, where the token does not say so itself: what it does was tried once.
	profileFile = "token-profile"
	// adoptionFile is there while the store of another cluster is made into the
	// one of this agent.
	adoptionFile = "adoption"
)

// identity is which store the agent serves.
type identity struct {
	dir       string
	storeID   string // Hex; empty: none yet.
	hint      string // Hex; that the token may hold if there is none yet.
	saved     bool
	provision bool
	profile   token.Profile // Zero: by what the token says of itself.
	kept      token.Profile // As profileFile says; zero: nothing.
	shadow    *wal.Log
	serials   serials
	adopts    *adoptionNote // nil: none.
	revisions *revisions
}

// serials is the content of serialFile; zero: none yet.
type serials struct {
	Wanted string `json:"wanted"`
	Own    string `json:"own"`
}

// adoptionNote is the content of adoptionFile.
type adoptionNote struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// newIdentity reads which store the agent has served before. One that is wanted
// must be the same.
func newIdentity(o Options, revisions *revisions) (*identity, error) {
	dir, wanted := o.StateDir, o.StoreID
	for _, id := range []string{wanted, o.StoreIDHint} {
		if _, err := hex.DecodeString(id); err != nil {
			return nil, fmt.Errorf("store id %q is not hexadecimal: %w", id, err)
		}
	}
	i := &identity{
		dir: dir, hint: o.StoreIDHint, provision: o.Provision, profile: o.Profile, revisions: revisions,
		shadow: wal.New(atomicfile.OS{}, filepath.Join(dir, shadowFile)),
	}
	if err := i.readAdoption(); err != nil {
		return nil, err
	}
	if err := i.readSerials(); err != nil {
		return nil, err
	}
	if err := i.readProfile(); err != nil {
		return nil, err
	}
	path := i.path(storeIDFile)
	content, err := os.ReadFile(path)
	saved := strings.TrimSpace(string(content))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		i.storeID = wanted
		return i, nil
	case err != nil:
		return nil, fmt.Errorf("read which store this agent serves: %w", err)
	case wanted != "" && wanted != saved:
		return nil, fmt.Errorf("this agent serves store %s (%s), not the wanted %s: use another state directory, and keep this one, which may hold the only copy of its store", saved, path, wanted)
	}
	i.storeID, i.saved = saved, true
	return i, nil
}

func (i *identity) options() token.Options {
	o := token.Options{StoreID: i.storeID, Provision: i.provision, Profile: cmp.Or(i.profile, i.kept), Log: i.shadow}
	if i.adopts != nil {
		o.StoreID = i.adopts.To
		o.Adopt = &token.Adoption{From: i.adopts.From, Revision: i.revisions.nextAbove, Strip: func(r token.Record) ([]byte, error) {
			meta, _, err := strip(r.Meta)
			return meta, err
		}}
	}
	return o
}

// open opens the store on a token: the one of this agent, or, if it has none yet,
// the one of the hint, or a new one.
func (i *identity) open(device token.Device) (*token.Store, error) {
	o := i.options()
	if i.hint == "" || i.storeID != "" || i.adopts != nil {
		return token.Open(device, o)
	}
	hinted := o
	hinted.StoreID, hinted.Provision = i.hint, false
	store, err := token.Open(device, hinted)
	switch token.ReasonOf(err) {
	case token.Blank, token.Foreign:
		return token.Open(device, o)
	}
	return store, err
}

// check refuses a token that is found as the one of this agent always was, by the
// serial number of its reader, and is another one.
func (i *identity) check(wanted pkcs11.Selector, t pkcs11.TokenInfo) error {
	if wanted.Serial == "" || wanted.Serial != i.serials.Wanted || t.Serial == i.serials.Own {
		return nil
	}
	return fmt.Errorf("%w: the one in reader %q calls itself %q, and the one of this agent is %q; if it is the same and was formatted, remove %s",
		pkcs11.ErrTokenAbsent, t.Reader, t.Serial, i.serials.Own, i.path(serialFile))
}

// mayInitialise refuses a token without a user PIN if its agent has served a store.
func (i *identity) mayInitialise(t pkcs11.TokenInfo) error {
	if i.storeID == "" {
		return nil
	}
	return &token.Error{Reason: token.Blank, Message: fmt.Sprintf(
		"token %q has no user PIN, and this agent serves store %s: the token was wiped, or is another one, and is not initialised", t.Serial, i.storeID)}
}

// remember writes down the store that was opened and the token that it is on, for
// all time.
func (i *identity) remember(store *token.Store, wanted pkcs11.Selector, t pkcs11.TokenInfo) error {
	if err := i.keepProfile(store.Usage().Profile.Name, t); err != nil {
		return err
	}
	storeID := store.ID()
	if now := (serials{wanted.Serial, t.Serial}); now.Wanted != "" && now.Wanted != now.Own && now != i.serials {
		content, err := json.Marshal(now)
		if err == nil {
			err = atomicfile.Replace(atomicfile.OS{}, i.path(serialFile), append(content, '\n'))
		}
		if err != nil {
			return fmt.Errorf("write down which token this agent serves: %w", err)
		}
		i.serials = now
	}
	if !i.saved || i.storeID != storeID {
		if err := atomicfile.Replace(atomicfile.OS{}, i.path(storeIDFile), []byte(storeID+"\n")); err != nil {
			return fmt.Errorf("write down which store this agent serves: %w", err)
		}
		i.storeID, i.saved = storeID, true
	}
	i.dropAdoption()
	return nil
}

// keepProfile writes down the profile of a token, unless it is that by which the token
// calls itself.
func (i *identity) keepProfile(name string, t pkcs11.TokenInfo) error {
	if i.profile != (token.Profile{}) || name == i.kept.Name || name == token.ProfileFor(t).Name {
		return nil
	}
	if err := atomicfile.Replace(atomicfile.OS{}, i.path(profileFile), []byte(name+"\n")); err != nil {
		return fmt.Errorf("write down what kind of token this agent serves: %w", err)
	}
	return i.readProfile()
}

func (i *identity) readProfile() error {
	content, err := os.ReadFile(i.path(profileFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		i.kept, err = token.ProfileNamed(strings.TrimSpace(string(content)))
	}
	if err != nil {
		return fmt.Errorf("read what kind of token this agent serves: %s: %w", i.path(profileFile), err)
	}
	return nil
}

func (i *identity) readSerials() error {
	content, err := os.ReadFile(i.path(serialFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(content, &i.serials)
	}
	if err != nil {
		return fmt.Errorf("read which token this agent serves: %s: %w", i.path(serialFile), err)
	}
	return nil
}

func (i *identity) path(name string) string { return filepath.Join(i.dir, name) }

// beginAdoption writes down that a store is to be adopted, before it is touched.
func (i *identity) beginAdoption(from, to string) error {
	note := &adoptionNote{from, to}
	content, err := json.Marshal(note)
	if err == nil {
		err = atomicfile.Replace(atomicfile.OS{}, i.path(adoptionFile), append(content, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write down which store is to be adopted: %w", err)
	}
	i.adopts = note
	return nil
}

func (i *identity) readAdoption() error {
	content, err := os.ReadFile(i.path(adoptionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	i.adopts = &adoptionNote{}
	if err == nil {
		err = json.Unmarshal(content, i.adopts)
	}
	if err != nil {
		return fmt.Errorf("read which store is to be adopted: %s: %w", i.path(adoptionFile), err)
	}
	return nil
}

// dropAdoption forgets an adoption that was made, or is not to be. If its file
// stays, it does no harm: the store that it names is gone, or asks for it again.
func (i *identity) dropAdoption() {
	if i.adopts == nil {
		return
	}
	i.adopts = nil
	if err := atomicfile.Remove(atomicfile.OS{}, i.path(adoptionFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.ErrorS(err, "The note of an adoption stays")
	}
}
