// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// rawStore keeps each secret in an object of its own. It is no better than it has to be:
// the newest of several objects counts.
type rawStore struct {
	*Session
	token *Token
}

func (s *rawStore) Reopen() (err error) {
	s.Session, err = s.token.Open()
	return err
}

func label(secret int) string { return fmt.Sprintf("secret-%017d", secret) }

func (s *rawStore) Put(secret int, value []byte) error {
	h, err := s.Create(label(secret), "j5t.io/hsm", value)
	if err != nil {
		return err
	}
	objects, err := s.Objects()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if o.Label == label(secret) && o.Handle != h {
			_ = s.Destroy(o.Handle)
		}
	}
	return nil
}

func (s *rawStore) Get(secret int) (newest []byte, err error) {
	for _, o := range s.list {
		if o.Label != label(secret) {
			continue
		}
		value, err := s.Value(o.Handle)
		if err != nil {
			continue // It is stuck.
		}
		if newest == nil || binary.BigEndian.Uint64(value) > binary.BigEndian.Uint64(newest) {
			newest = value
		}
	}
	return newest, nil
}

// TestChurn: a store of one object a secret lives on a token that is unplugged at random.
func TestChurn(t *testing.T) {
	t.Parallel()
	for _, p := range []Profile{Pico66With1M, PicoNext} {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			tok, s := withKey(t, p)
			if p.Name == Pico66With1M.Name {
				singleAnchors(&layout{t: t, Session: s})
			}
			store := &rawStore{s, tok}
			c := Churn{
				Token: tok, Random: rand.New(rand.NewPCG(1, 2)), Secrets: 40, Bytes: 600, Updates: times(20_000),
				Mishaps: Mishaps{Calls: 200, Events: []Event{(*Token).Remove, (*Token).LoseLogin, (*Token).RestartPCSCD}},
				Put:     store.Put, Get: store.Get, Reopen: store.Reopen,
			}
			report, err := c.Run()
			if err != nil {
				t.Error(err)
			}
			if report.Updates != c.Updates || report.Wrong > 0 || report.Mishaps < c.Updates/200 || report.Reopens < c.Updates/400 {
				t.Errorf("%+v", report)
			}
		})
	}
}

// TestChurnTells: it tells of a store that loses, refuses or does not open.
func TestChurnTells(t *testing.T) {
	t.Parallel()
	run := func(p Profile, edit func(*Churn)) ChurnReport {
		tok, s := withKey(t, p)
		store := &rawStore{s, tok}
		c := Churn{
			Token: tok, Random: rand.New(rand.NewPCG(1, 2)), Secrets: 40, Bytes: 2500, Updates: 400,
			Mishaps: Mishaps{Calls: 50, Events: []Event{(*Token).Remove}},
			Put:     store.Put, Get: store.Get, Reopen: store.Reopen,
		}
		edit(&c)
		report, _ := c.Run()
		return report
	}
	if report := run(Pico66With1M, func(*Churn) {}); report.Refused != 1 {
		t.Errorf("flash that fragments: %+v", report)
	}
	if report := run(PicoNext, func(c *Churn) {
		c.Token.Forget(Forgets{Creates: 1})
		c.Mishaps.Calls = 10
	}); report.Wrong == 0 {
		t.Errorf("lost creates: %+v", report)
	}
	if report := run(PicoNext, func(c *Churn) { c.Mishaps.Events = []Event{(*Token).CutInErase} }); report.Closed != 1 {
		t.Errorf("a dead token: %+v", report)
	}
	if report := run(PicoNext, func(c *Churn) { c.Mishaps.Inside, c.Mishaps.Calls, c.Updates = true, 10, 4000 }); report.Closed+report.Refused+report.Wrong == 0 {
		t.Errorf("slots that are lost for ever: %+v", report)
	}
}
