// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"
)

func TestTokensArriveWhileSlotsAreListed(t *testing.T) {
	t.Parallel()
	tooSmall, dead := pkcs11.Error(pkcs11.CKR_BUFFER_TOO_SMALL), pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
	for _, test := range []struct {
		name    string
		answers []error // One after the other; the last one again and again.
		err     error
		asked   int
	}{
		{"none", []error{nil}, nil, 1},
		{"one", []error{tooSmall, nil}, nil, 2},
		{"two", []error{tooSmall, tooSmall, nil}, nil, 3},
		{"one, and the reader dies", []error{tooSmall, dead}, dead, 2},
		{"the module never answers otherwise", []error{tooSmall}, tooSmall, slotListAttempts},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			slots, err := slotsWithToken(func(tokenPresent bool) ([]uint, error) {
				if !tokenPresent {
					t.Error("slots without a token were asked for")
				}
				answer := test.answers[min(asked, len(test.answers)-1)]
				asked++
				if answer != nil {
					return nil, answer
				}
				return []uint{7}, nil
			})
			if !errors.Is(err, test.err) || asked != test.asked {
				t.Errorf("%d calls, %v; want %d, %v", asked, err, test.asked, test.err)
			}
			if err == nil && !slices.Equal(slots, []uint{7}) {
				t.Errorf("slots %v", slots)
			}
		})
	}
}
