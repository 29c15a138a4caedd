// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	clocktesting "k8s.io/utils/clock/testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// The tests of this file let housekeeping fail. Reads and writes go on, the
// failure is told, and what failed is tried again later, not at once.

// keeper is a harness whose clock stands until the test moves it.
type keeper struct {
	*harness
	clock *clocktesting.FakePassiveClock
}

func newKeeper(t *testing.T, f *faulttoken.Token, prepare func(*faultModule, *Options)) *keeper {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Now())
	o, files := testOptions(t)
	o.Clock = clock
	m := &faultModule{token: f}
	prepare(m, &o)
	h := runOn(t, m, o, files)
	h.module, h.token = m, f
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	return &keeper{h, clock}
}

// later moves the clock past every pause of housekeeping.
func (k *keeper) later() { k.clock.SetTime(k.clock.Now().Add(2 * time.Hour)) }

// expectFailing waits until the failure of a task is told, in status and metrics,
// by an agent that serves.
func (k *keeper) expectFailing(task string) {
	k.Helper()
	k.eventually(task+" fails", func() bool { return strings.Contains(k.status().GetMessage(), task) })
	if got := k.status().GetReason(); got != agentv1.Reason_REASON_UNSPECIFIED {
		k.Errorf("the store is not served: %s", got)
	}
	if n := k.failures(task); n < 1 {
		k.Errorf("the metrics tell of %d failures", n)
	}
}

func (k *keeper) failures(task string) (n int) {
	recorder := httptest.NewRecorder()
	k.Metrics().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	line := regexp.MustCompile(`(?m)^hsm_housekeeping_failures_total\{task="` + strings.ReplaceAll(task, " ", "_") + `"\} (\d+)$`)
	if found := line.FindStringSubmatch(recorder.Body.String()); found != nil {
		_, _ = fmt.Sscan(found[1], &n)
	}
	return n
}

// expectMended waits until nothing is told any more.
func (k *keeper) expectMended() {
	k.Helper()
	k.later()
	k.eventually("housekeeping has succeeded", func() bool { return k.status().GetMessage() == "" })
}

func TestObjectThatCannotBeDestroyed(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]uint{"general error": pkcs11.CKRGeneralError, "function failed": pkcs11.CKRFunctionFailed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeeper(t, faulttoken.New(faulttoken.Pico66), func(*faultModule, *Options) {})
			permit := k.module.refuseAlways(faulttoken.Destroy, code)
			logins := k.Calls().Logins
			var revision uint64
			for i := range 10 {
				revision = k.commit(put("a", revision, fmt.Sprint(i))).GetRevision()
				if got := k.get("a"); string(got.GetData()) != fmt.Sprint(i) {
					t.Fatalf("record is %v", got)
				}
			}
			k.eventually("they are named", func() bool { return len(k.status().GetStuckObjects()) > 3 })
			if got := k.status(); got.GetMessage() != "" || got.GetReason() != agentv1.Reason_REASON_UNSPECIFIED {
				t.Errorf("status is %v", got)
			}
			if got := k.Calls().Logins - logins; got != 0 {
				t.Errorf("the token that answers was left, and logged into %d times", got)
			}
			k.later()
			k.get("a")
			if tries, stuck := k.module.countRefusals(), len(k.status().GetStuckObjects()); tries != stuck {
				t.Errorf("%d destroys were tried of %d objects", tries, stuck)
			}
			permit()
			k.token.PowerCut() // They are tried again when the store is opened.
			k.get("a")
			k.eventually("what was superseded is destroyed", func() bool { return len(k.token.Flash()) < 5 && len(k.status().GetStuckObjects()) == 0 })
		})
	}
}

// fillPico makes a store of so many small records that it is due to be compacted.
func fillPico(t *testing.T, f *faulttoken.Token) (storeID string) {
	t.Helper()
	s, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	store, err := token.Open(s, token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(95) {
		record := token.Record{Key: fmt.Sprint(i), Data: []byte("x"), Revision: i + 1, DataRevision: i + 1}
		if err := store.Commit([]token.Change{{Record: record}}); err != nil {
			t.Fatal(err)
		}
	}
	return store.ID()
}

func TestCompactionThatIsRefused(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]uint{
		"no room": pkcs11.CKRDeviceMemory, "general error": pkcs11.CKRGeneralError, "function failed": pkcs11.CKRFunctionFailed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := faulttoken.New(faulttoken.Pico66)
			var permit func()
			k := newKeeper(t, f, func(m *faultModule, o *Options) {
				o.StoreID = fillPico(t, f)
				permit = m.refuseAlways(faulttoken.Create, code)
			})
			k.expectFailing("compacting")
			if !k.status().GetNeedsRelayout() {
				t.Error("the status does not say that the token refuses what should fit")
			}
			tries := k.module.countRefusals()
			for range 20 {
				if got := k.get("7"); string(got.GetData()) != "x" {
					t.Fatalf("record is %v", got)
				}
			}
			if k.module.countRefusals() != tries || tries > 2 {
				t.Errorf("compacting was tried %d times in no time", k.module.countRefusals())
			}
			if logins := k.Calls().Logins; logins > 3 { // Of fillPico, of the agent, and to learn what became of the commit.
				t.Errorf("%d logins", logins)
			}
			permit()
			k.commit(put("new", 0, "x"))
			k.expectMended()
			if k.status().GetNeedsRelayout() {
				t.Error("the status says that the token refuses what it took")
			}
			k.eventually("the store is compacted", func() bool { return k.status().GetCapacity().GetSpareObjects() > 80 })
		})
	}
}

func TestLogThatCannotBeCompacted(t *testing.T) {
	t.Parallel()
	var blocked string
	k := newKeeper(t, faulttoken.New(faulttoken.SoftHSM), func(_ *faultModule, o *Options) { blocked = filepath.Join(o.StateDir, shadowFile+".new") })
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	var revision uint64
	value := strings.Repeat("x", 30<<10)
	for range 10 {
		revision = k.commit(put("a", revision, value)).GetRevision()
	}
	k.expectFailing("collecting garbage")
	if got := k.get("a"); string(got.GetData()) != value {
		t.Errorf("record has %d bytes", len(got.GetData()))
	}
	k.commit(put("b", 0, "x"))
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	k.expectMended()
}

// damage breaks the object of the last commit on the token and takes the copy away
// that the log has, so that no scrub can mend it.
func (k *keeper) damage(stateDir string) {
	k.Helper()
	flash := k.token.Flash()
	k.token.Change(flash[len(flash)-1].Label, func(o *faulttoken.Object) bool {
		o.Value[len(o.Value)-1] ^= 1
		return true
	})
	if err := os.Remove(filepath.Join(stateDir, shadowFile)); err != nil {
		k.Fatal(err)
	}
}

// A scrub that finds an object which nobody can mend tells of it. The store was
// whole when it was opened: all other records are what they were, and are served;
// the damaged one is told to be so, never to be absent.
func TestScrubThatFindsWhatItCannotMend(t *testing.T) {
	t.Parallel()
	var stateDir string
	k := newKeeper(t, faulttoken.New(faulttoken.Pico66), func(_ *faultModule, o *Options) { stateDir = o.StateDir })
	k.commit(put("whole", 0, "x"))
	k.commit(put("damaged", 0, "x"))
	k.damage(stateDir)
	k.clock.SetTime(k.clock.Now().Add(25 * time.Hour))
	k.expectFailing("scrubbing")
	for range 3 {
		if got := k.get("whole"); string(got.GetData()) != "x" {
			t.Errorf("record is %v", got)
		}
		if _, err := k.store.Get(k.ctx, &agentv1.GetRequest{Key: "damaged"}); status.Code(err) != codes.DataLoss || agentv1.ReasonOf(err) != agentv1.Reason_REASON_CORRUPT {
			t.Errorf("get of the damaged record says %v", err)
		}
	}
	k.commit(put("new", 0, "x"))
	if n := k.failures("scrubbing"); n > 2 { // One that was due, and one that the damaged record called for.
		t.Errorf("the scrub was tried %d times in no time", n)
	}
}

// A scrub that cannot log in again has lost the token.
func TestScrubThatCannotLogIn(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, faulttoken.New(faulttoken.Pico66), func(*faultModule, *Options) {})
	k.commit(put("a", 0, "x"))
	logins := k.Calls().Logins
	k.token.Fail(faulttoken.Login, faulttoken.Fault{Code: pkcs11.CKRDeviceRemoved})
	k.clock.SetTime(k.clock.Now().Add(25 * time.Hour))
	k.eventually("it was logged in again", func() bool { return k.Calls().Logins >= logins+2 })
	k.await(agentv1.Reason_REASON_UNSPECIFIED)
	if got := k.get("a"); string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
}
