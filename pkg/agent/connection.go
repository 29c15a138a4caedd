// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// module is a PKCS#11 module, and through it the token in a reader.
type module interface {
	Find(pkcs11.Selector) (pkcs11.TokenInfo, error)
	TokenInfo(slotID uint) (pkcs11.TokenInfo, error)
	OpenSession(slotID uint) (session, error)
	InitToken(slotID uint, soPIN []byte, label string) error
	InitPIN(slotID uint, soPIN, userPIN []byte, justFormatted bool) error
	// Calls counts what tokens were asked for. Any goroutine may call it.
	Calls() pkcs11.Calls
	// Reinitialize forgets all that the module remembers of the token.
	Reinitialize() error
	Close() error
}

// session is a session with a token.
type session interface {
	token.Device
	Login(pin []byte) error
	SetPIN(old, pin []byte) error
	Close() error
}

// pkcs11Module is a real module.
type pkcs11Module struct{ *pkcs11.Module }

func (m pkcs11Module) OpenSession(slotID uint) (session, error) { return m.Module.OpenSession(slotID) }

// connection is the one way to the token: the module, the session that is logged
// in, and the store that was verified in it. It does what it is told and decides
// nothing: when to connect again is the supervisor's, what to ask the store is the
// worker's. The one goroutine that owns the token uses it.
type connection struct {
	module   module
	selector pkcs11.Selector
	pins     *pins
	identity *identity
	state    *state

	used     bool             // The module was used before: it may remember wrongly.
	found    pkcs11.TokenInfo // At the last attempt.
	loggedIn bool             // The last attempt came to a login.
	session  session          // nil while there is none.
	store    *token.Store     // nil until it was opened.
}

// reach finds the token, past what the module remembers of it, opens a session and
// logs in.
func (c *connection) reach() error {
	c.close()
	c.loggedIn = false
	if c.used {
		if err := c.module.Reinitialize(); err != nil {
			return err
		}
	}
	c.used = true
	info, err := c.find()
	if err != nil {
		return err
	}
	if !info.UserPINInitialized || c.pins.isFormatting() {
		if err := c.identity.mayInitialise(info); err != nil {
			return err
		}
		if err := c.pins.initialise(info); err != nil {
			return err
		}
		// It may call itself by another serial number now, and by another slot.
		if err := c.module.Reinitialize(); err != nil {
			return err
		}
		if info, err = c.find(); err != nil {
			return err
		}
	}
	if c.session, err = c.module.OpenSession(info.SlotID); err != nil {
		c.session = nil
		return err
	}
	c.loggedIn = true
	return c.login()
}

// find finds the token, and makes sure that it is the one of this agent.
func (c *connection) find() (pkcs11.TokenInfo, error) {
	info, err := c.module.Find(c.selector)
	if err == nil {
		err = c.identity.check(c.selector, info)
	}
	if err != nil {
		c.state.seen(nil)
		return info, err
	}
	c.found = info
	c.state.seen(&info)
	return info, nil
}

// openStore opens the store of this agent on the token that was reached.
func (c *connection) openStore() (err error) {
	if c.store, err = c.identity.open(c.session); err != nil {
		return err
	}
	if err := c.identity.remember(c.store.ID(), c.selector, c.session.Info()); err != nil {
		return err
	}
	warnSwap(c.store.LockKeys())
	c.state.opened(c.store.ID())
	return nil
}

// login logs in, again after the token has lost the login.
func (c *connection) login() error { return c.pins.login(c.session) }

// probe asks without a login whether the same token is still in the reader, and
// follows the PIN files.
func (c *connection) probe() error {
	served := c.session.Info()
	now, err := c.module.TokenInfo(served.SlotID)
	if err == nil && now.Serial != served.Serial {
		err = pkcs11.ErrTokenAbsent
	}
	if err != nil {
		return err
	}
	return c.pins.follow(c.session)
}

// ping asks for something that no module remembers, to learn whether an error was
// of one object or of the token.
func (c *connection) ping() error {
	_, err := c.session.Random(1)
	return err
}

// scrub reads the store from the token itself, in a new session. The error is a
// *token.HousekeepingError if only that failed.
func (c *connection) scrub() error {
	if err := c.reach(); err != nil {
		return err
	}
	_, err := c.store.Scrub(c.session)
	return err
}

// inspect reports what adopting a store changes. It changes nothing.
func (c *connection) inspect(storeID string) (*agentv1.AdoptResponse, error) {
	defer c.close()
	if err := c.reach(); err != nil {
		return nil, err
	}
	return c.identity.inspect(c.session, storeID)
}

// changed reports whether something has changed that another attempt may depend on:
// the token, or the PIN files.
func (c *connection) changed() bool {
	if c.pins.changed() {
		return true
	}
	now, err := c.module.Find(c.selector)
	return err != nil || now != c.found
}

// close ends the session, which may be dead already.
func (c *connection) close() {
	if c.session == nil {
		return
	}
	if err := c.session.Close(); err != nil {
		klog.V(2).InfoS("Closing the session with the token failed", "err", err)
	}
	c.session = nil
}
