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
	Logout() error
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

	used    bool             // The module was used before: it may remember wrongly.
	seen    bool             // The last attempt has found the token.
	found   pkcs11.TokenInfo // At the last attempt that did.
	session session          // nil while there is none.
	store   *token.Store     // nil until it was opened.
}

// reach finds the token, past what the module remembers of it, opens a session and
// logs in.
func (c *connection) reach() error {
	c.close()
	c.seen = false
	if c.used {
		if err := c.module.Reinitialize(); err != nil {
			c.state.seen(nil)
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
	return c.pins.login(c.session)
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
	c.seen, c.found = true, info
	c.state.seen(&info)
	return info, nil
}

// openStore opens the store of this agent on the token that was reached.
func (c *connection) openStore() (err error) {
	if c.store, err = c.identity.open(c.session); err != nil {
		return err
	}
	if err := c.identity.remember(c.store, c.selector, c.session.Info()); err != nil {
		return err
	}
	warnSwap(c.store.LockKeys())
	c.state.opened(c.store.ID())
	return nil
}

// loginAgain logs in after the token has lost the login. Modules believe that it is still
// there; so it is ended first, and one login is enough.
func (c *connection) loginAgain() error {
	if err := c.session.Logout(); err != nil {
		return err
	}
	return c.pins.login(c.session)
}

// probe asks whether the same token is still in the reader, and was all the time, and
// follows the PIN files.
func (c *connection) probe() error {
	if err := ifLost(c.ping()); err != nil {
		return err
	}
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

// attend follows a token that an attempt has found, and that is not served, and reports
// whether it is there. It opens a session without a login: that does not outlive a
// moment in which the token was pulled, and perhaps another one put in that looked the same.
func (c *connection) attend() bool {
	c.close()
	if !c.seen {
		return false
	}
	var err error
	if c.session, err = c.module.OpenSession(c.found.SlotID); err != nil {
		c.session = nil
		return false
	}
	if !c.answers() { // It would not each time.
		c.close()
	}
	return true
}

// changed reports whether something has changed that another attempt may depend on:
// the token, or the PIN files.
func (c *connection) changed() bool {
	if c.pins.changed() {
		return true
	}
	now, err := c.module.Find(c.selector)
	return err != nil || now != c.found || c.session != nil && !c.answers()
}

// answers reports whether the token of the session answers, be it that a login is needed.
func (c *connection) answers() bool {
	err := c.ping()
	return err == nil || pkcs11.ClassOf(err) == pkcs11.ClassRelogin
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
