// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"errors"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

func TestReasonsHaveNames(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, reason := range token.Reasons() {
		names[reason.String()] = true
	}
	if len(names) != len(token.Reasons()) || names[""] || names[token.Reason(0).String()] {
		t.Errorf("the reasons are named %v", names)
	}
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 1))
	s.commit(del("ns/a", 2))
	for _, key := range []string{"ns/a", "ns/never"} {
		if _, err := s.Data(key); token.ReasonOf(err) != token.NotFound {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestHousekeepingErrors can be told from others, and what they mean is kept.
func TestHousekeepingErrors(t *testing.T) {
	t.Parallel()
	for task, do := range map[string]func(s *stick) error{
		"collecting garbage": func(s *stick) error { s.token.Remove(); _, err := s.CollectGarbage(); return err },
		"compacting":         func(s *stick) error { s.token.Remove(); _, err := s.Compact(s.next); return err },
		"scrubbing": func(s *stick) error {
			session, err := s.token.Open()
			s.token.Remove()
			if err == nil {
				_, err = s.Scrub(session)
			}
			return err
		},
	} {
		s := provision(t, faulttoken.Pico66)
		s.commit(put("ns/a", 1, 1))
		s.commit(put("ns/a", 2, 1))
		s.commit(put("ns/a", 3, 1))
		err := do(s)
		var housekeeping *token.HousekeepingError
		if !errors.As(err, &housekeeping) || housekeeping.Task != task || pkcs11.ClassOf(err) != pkcs11.ClassReconnect {
			t.Errorf("%s gave %v", task, err)
		}
	}
}
