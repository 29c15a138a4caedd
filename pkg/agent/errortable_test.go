// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// classified is an error of a class, as pkg/pkcs11 makes them.
type classified pkcs11.Class

func (c classified) Error() string       { return "class " + pkcs11.Class(c).String() }
func (c classified) Class() pkcs11.Class { return pkcs11.Class(c) }

// everyCause is an error for each reason, class and cause that there is.
func everyCause() map[any]error {
	all := map[any]error{
		causeUninitialised: uninitialisedError{errors.New("uninitialised")},
		causePINFile:       pinFileError{errors.New("PIN file")},
		causeHousekeeping:  &token.HousekeepingError{Task: "compacting", Err: errors.New("refused")},
	}
	for _, r := range token.Reasons() {
		all[r] = &token.Error{Reason: r, Message: "reason " + r.String()}
	}
	for _, c := range pkcs11.Classes() {
		all[c] = classified(c)
	}
	for _, r := range mvcc.Reasons {
		all[r] = &mvcc.Error{Reason: r, Message: "reason " + r.String()}
	}
	for r := pinlatch.ReasonRejected; r <= pinlatch.ReasonLocked; r++ {
		all[r] = &pinlatch.RefusedError{Reason: r}
	}
	return all
}

func TestEveryErrorHasARow(t *testing.T) {
	t.Parallel()
	all := everyCause()
	for key, err := range all {
		name := fmt.Sprintf("%T %v", key, key)
		row, ok := meanings[key]
		if !ok {
			t.Errorf("%s has no row", name)
			continue
		}
		wrapped := fmt.Errorf("doing this: %w", errors.Join(errors.New("and that"), err))
		for _, err := range []error{err, wrapped} {
			if got := meaningOf(err); got != row {
				t.Errorf("%s: an error of it has another row: %+v", name, got)
			}
			if c := conditionOf(err); c.ready() || !strings.Contains(c.message, err.Error()) {
				t.Errorf("%s: the condition is %+v", name, c)
			}
			told := requestError(err)
			if code := status.Code(told); code == codes.OK || code == codes.Unknown {
				t.Errorf("%s: a request is told %v", name, told)
			}
			if lost := ifLost(err) != nil; lost != row.lost || lost && status.Code(told) != codes.Unavailable {
				t.Errorf("%s: lost is %t, and a request is told %v", name, lost, told)
			}
		}
		if !row.lost && row.code == codes.OK {
			t.Errorf("%s: the session goes on, and its request is told nothing", name)
		}
		if row.lost && row.written == writtenNothing {
			t.Errorf("%s: the session is lost, and a commit that failed so says that the store goes on", name)
		}
		// Only Invalid is a mistake of the caller.
		if row.code == codes.InvalidArgument && key != any(token.Invalid) {
			t.Errorf("%s is told to be a mistake of the caller", name)
		}
		for _, text := range []string{row.conditionText, row.requestText} {
			if text != "" && strings.Count(text, "%v") != 1 {
				t.Errorf("%s: %q does not say what happened", name, text)
			}
		}
	}
	for key := range meanings {
		if all[key] == nil {
			t.Errorf("%T %v has a row, and no error is made of it", key, key)
		}
	}
	fmt.Printf("figure: error-rows-tested %d\n", len(all))
}

// The outermost cause decides; a cause without a condition leaves that to the next.
func TestCausesBehindCauses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err       error
		condition agentv1.Reason
		lost      bool
	}{
		"an outcome that a pulled token left unknown": {&token.Error{Reason: token.OutcomeUnknown, Err: classified(pkcs11.ClassReconnect)}, agentv1.Reason_REASON_TOKEN_ABSENT, true},
		"an object that a token which answers broke":  {&token.Error{Reason: token.Corrupt, Err: classified(pkcs11.ClassReconnect)}, agentv1.Reason_REASON_CORRUPT, false},
		"a token that refused what it has lost":       {&token.Error{Reason: token.Full, Err: classified(pkcs11.ClassFull)}, agentv1.Reason_REASON_LOADING, false},
		"a store that is stale for a corrupt object":  {&token.Error{Reason: token.Stale, Err: &token.Error{Reason: token.Corrupt}}, agentv1.Reason_REASON_CORRUPT, true},
		"a scrub that found another store":            {&token.HousekeepingError{Task: "scrubbing", Err: &token.Error{Reason: token.Foreign}}, agentv1.Reason_REASON_TOKEN_FOREIGN, false},
		"a token that could not be formatted":         {uninitialisedError{classified(pkcs11.ClassReconnect)}, agentv1.Reason_REASON_TOKEN_UNINITIALIZED, true},
		"anything that ends the session":              {lostError{classified(pkcs11.ClassOther)}, agentv1.Reason_REASON_LOADING, true},
		"nobody knows what":                           {io.ErrUnexpectedEOF, agentv1.Reason_REASON_LOADING, false},
	} {
		if got := conditionOf(c.err).reason; got != c.condition {
			t.Errorf("%s: the condition is %s", name, got)
		}
		if got := ifLost(c.err) != nil; got != c.lost {
			t.Errorf("%s: lost is %t", name, got)
		}
	}
}

// What is wrong in this program is told as such, and not as a mistake of the caller.
func TestOurFaultsAreNotTheCallers(t *testing.T) {
	t.Parallel()
	session, err := faulttoken.New(faulttoken.SoftHSM).Open()
	if err != nil {
		t.Fatal(err)
	}
	store, err := token.Open(session, token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	change := token.Change{Record: token.Record{Key: "a", Revision: 5, DataRevision: 5}}
	if err := store.Commit([]token.Change{change}); err != nil {
		t.Fatal(err)
	}
	_, unknown := store.Data("no such record")
	again := store.Commit([]token.Change{change})
	change.Record.Revision, change.Record.DataRevision = 6, 7
	future := store.Commit([]token.Change{change})
	for name, err := range map[string]error{"a record that the store does not hold": unknown, "a revision given twice": again, "data of a later revision": future} {
		told := requestError(err)
		if status.Code(told) != codes.Internal || agentv1.ReasonOf(told) != agentv1.Reason_REASON_UNSPECIFIED || !strings.Contains(told.Error(), "fault of the agent") {
			t.Errorf("%s (%v) is told as %v", name, err, told)
		}
		if row := meaningOf(err); row.lost || row.written != writtenNothing {
			t.Errorf("%s: the store does not go on: %+v", name, row)
		}
	}
}

// Data that cannot be decrypted in the agent's memory is the agent's fault.
func TestHistoryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	x, last := h.versions.Current()
	h.versions.Reset(x, last) // As after a restart: the history knows no data.
	changed := h.commit(setStatus("a", created.GetRevision(), "fine"))
	v := mvcc.Version{Key: "a", DataRevision: created.GetDataRevision()}
	h.versions.KeepData(v, h.versions.Seal(mvcc.Version{Key: "other"}, []byte("x")))
	h.commit(put("a", changed.GetRevision(), "y"))
	_, _, err := h.list(&agentv1.ListRequest{Revision: changed.GetRevision()})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "fault of the agent") {
		t.Errorf("list says %v", err)
	}
	if got := h.get("a"); string(got.GetData()) != "y" {
		t.Errorf("record is %v", got)
	}
}

// What the caller asked for and no store can do is his mistake.
func TestMistakesOfTheCaller(t *testing.T) {
	t.Parallel()
	h := start(t)
	_, err := h.store.Commit(h.ctx, put(strings.Repeat("k", 3000), 0, "x"))
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a put of too long a key says %v", err)
	}
	if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a get without a key says %v", err)
	}
	h.commit(put("a", 0, "x"))
}
