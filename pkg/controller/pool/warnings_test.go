// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

func TestFirmwareProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		profile, firmware, hardware, want string
	}{
		"release 6.6":                                {"pico-6.6", "6.6", "8.6", "pico-keys-sdk #35"},
		"release 6.6, dense":                         {"pico-6.6-dense", "6.6", "8.6", "pico-keys-sdk #35"},
		"release 6.6, no anchors":                    {"pico", "6.6", "8.6", "pico-keys-sdk #35"},
		"SDK 9 calls itself 6.6":                     {"pico-next", "6.6", "9.0", ""},
		"SDK 9, before its profile was known":        {"pico", "6.6", "9.0", ""},
		"SDK 10":                                     {"pico-next", "7.0", "10.2", ""},
		"behaves as newer, but is of before the fix": {"pico-next", "6.6", "8.8", "pico-keys-sdk #35"},
		"the reader says nothing: by its behaviour":  {"pico-next", "6.6", "0.0", ""},
		"the reader says nothing: when unsure, 6.6":  {"pico-6.6", "6.6", "0.0", "pico-keys-sdk #35"},
		"an agent that does not tell the reader":     {"pico", "6.6", "", "pico-keys-sdk #35"},
		"release 3.6":                                {"pico", "3.6", "3.4", "pico-hsm #38"},
		"release 4.0":                                {"pico", "4.0", "6.0", "pico-keys-sdk #35"},
		"an unknown release":                         {"pico", "", "9.0", ""},
		"a Nitrokey HSM, whose numbers are its own":  {"smartcard-hsm", "3.5", "1.0", ""},
		"SoftHSM": {"softhsm", "2.6", "2.6", ""},
		"a profile that only begins with the letters": {"picolo", "3.6", "1.0", ""},
		"an agent that has never served":              {"", "3.6", "1.0", ""},
	} {
		member := &v1alpha1.PoolMember{Profile: c.profile, FirmwareVersion: c.firmware, HardwareVersion: c.hardware}
		got := ""
		if problem := firmwareProblemOf(member); problem != nil {
			got = problem.Name
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestFirmwareTable: each row can apply, and says what to do.
func TestFirmwareTable(t *testing.T) {
	t.Parallel()
	for _, p := range firmwareProblems {
		if p.Name == "" || p.Profile == "" || !strings.Contains(p.Message, "fixed in") {
			t.Errorf("bad row: %+v", p)
		}
		if p.FirmwareBelow == "" && p.HardwareBelow == "" {
			t.Errorf("%s applies to every version", p.Name)
		}
		for _, version := range []string{p.FirmwareBelow, p.HardwareBelow} {
			if _, ok := parseVersion(version); version != "" && !ok {
				t.Errorf("%s: %q is no version", p.Name, version)
			}
		}
		for _, profile := range p.NewerProfiles {
			if !strings.HasPrefix(profile, p.Profile+"-") {
				t.Errorf("%s: profile %s is none of %s", p.Name, profile, p.Profile)
			}
		}
	}
}

// picoAnswer is of the agent of a Pico HSM.
func picoAnswer(profile, hardware string, change func(*agentv1.StatusResponse)) *answer {
	a := serving(1)
	a.status.Capacity = &agentv1.Capacity{Profile: profile}
	a.status.FirmwareVersion, a.status.HardwareVersion = "6.6", hardware
	if change != nil {
		change(a.status)
	}
	return a
}

// warningsOf are the conditions that warn, as "TYPE STATUS REASON".
func warningsOf(pool *v1alpha1.HSMPool) (warnings []string) {
	for _, conditionType := range []string{v1alpha1.HSMPoolNeedsRelayout, v1alpha1.HSMPoolFirmwareKnownBad, v1alpha1.HSMPoolShortAPDUs} {
		if c := meta.FindStatusCondition(pool.Status.Conditions, conditionType); c != nil {
			warnings = append(warnings, fmt.Sprint(c.Type, " ", c.Status, " ", c.Reason))
		}
	}
	return warnings
}

func (w *world) wantWarnings(want ...string) {
	w.t.Helper()
	if got := warningsOf(w.pool("pico")); !slices.Equal(got, want) {
		w.t.Errorf("the warnings are %q, want %q", got, want)
	}
}

// TestWarnings: they come and go with what agents report, and never touch the phase.
func TestWarnings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, "pico").served()
	w.report(w.found("pico", "node-1", "A", "B"))
	w.agent("A", "node-1", serving(1))
	w.agent("B", "node-1", serving(1))
	w.want("pico", "Ready 2/2 1/1 A@1 B@1 | A@1:Serving B@1:Serving")
	w.wantWarnings("NeedsRelayout Unknown NotReported", "FirmwareKnownBad Unknown NotReported", "ShortAPDUs False NoneFound")

	// A new stick.
	w.agent("A", "node-1", picoAnswer("pico-next", "9.0", nil))
	w.decide()
	w.wantWarnings("NeedsRelayout False NoneNeeded", "FirmwareKnownBad False NothingKnown", "ShortAPDUs False NoneFound")

	// One of release 6.6 beside it.
	w.agent("B", "node-1", picoAnswer("pico", "8.6", func(s *agentv1.StatusResponse) {
		s.NeedsRelayout, s.StuckObjects = true, []string{"seg-1-0", "seg-7-1"}
	}))
	w.want("pico", "Ready 2/2 1/1 A@1 B@1 | A@1:Serving B@1:Serving")
	w.wantWarnings("NeedsRelayout True FlashFragments", "FirmwareKnownBad True LosesData", "ShortAPDUs False NoneFound")
	for conditionType, texts := range map[string][]string{
		v1alpha1.HSMPoolNeedsRelayout:    {"token B: ", "Nothing is lost", "docs/tokens.md"},
		v1alpha1.HSMPoolFirmwareKnownBad: {"token B: ", "firmware 6.6, hardware 8.6: pico-keys-sdk #35: ", "state directory"},
	} {
		message := meta.FindStatusCondition(w.pool("pico").Status.Conditions, conditionType).Message
		for _, text := range texts {
			if !strings.Contains(message, text) {
				t.Errorf("%s does not say %q: %s", conditionType, text, message)
			}
		}
		if strings.Contains(message, "token A") {
			t.Errorf("%s names a token that is well: %s", conditionType, message)
		}
	}
	b := w.pool("pico").Status.Members[1]
	if !b.NeedsRelayout || !slices.Equal(b.StuckObjects, []string{"seg-1-0", "seg-7-1"}) || b.Profile != "pico" || b.FirmwareVersion != "6.6" || b.HardwareVersion != "8.6" {
		t.Errorf("the member is %+v", b)
	}

	// What was known stays while its agent cannot say it.
	w.agent("B", "node-1", failing(agentv1.Reason_REASON_TOKEN_ABSENT))
	w.want("pico", "Partial 2/2 1/1 A@1 B@1 | A@1:Serving B@1:TokenAbsent")
	w.wantWarnings("NeedsRelayout True FlashFragments", "FirmwareKnownBad True LosesData", "ShortAPDUs False NoneFound")
	if b := w.pool("pico").Status.Members[1]; len(b.StuckObjects) != 2 || b.Profile != "pico" {
		t.Errorf("the member is %+v", b)
	}

	// When it takes writes again.
	w.agent("B", "node-1", picoAnswer("pico-6.6", "8.6", nil))
	w.want("pico", "Ready 2/2 1/1 A@1 B@1 | A@1:Serving B@1:Serving")
	w.wantWarnings("NeedsRelayout False NoneNeeded", "FirmwareKnownBad True LosesData", "ShortAPDUs False NoneFound")
	if b := w.pool("pico").Status.Members[1]; b.NeedsRelayout || len(b.StuckObjects) > 0 {
		t.Errorf("the member is %+v", b)
	}

	// Without agents there is nobody to say it.
	w.devices[0].Spec.PKCS11 = nil
	w.decide()
	w.wantWarnings()
}

// TestWarningsAreBounded: a status has room for what many tokens, or a confused agent, have to say.
func TestWarningsAreBounded(t *testing.T) {
	t.Parallel()
	var members []v1alpha1.PoolMember
	for i := range 100 {
		m := v1alpha1.PoolMember{SerialNumber: fmt.Sprint("T", i)}
		applyAnswer(&m, picoAnswer("pico", "8.6", func(s *agentv1.StatusResponse) {
			s.NeedsRelayout, s.StuckObjects = true, make([]string, 1000)
		}))
		if len(m.StuckObjects) != maxStuckListed {
			t.Fatalf("%d stuck objects are listed", len(m.StuckObjects))
		}
		members = append(members, m)
	}
	var devices []v1alpha1.AggregatedDevice
	for _, m := range members {
		devices = append(devices, v1alpha1.AggregatedDevice{SerialNumber: m.SerialNumber, ShortAPDUs: true})
	}
	for _, condition := range warningConditions(&v1alpha1.HSMPoolStatus{Members: members, AggregatedDevices: devices}) {
		if condition.Status != metav1.ConditionTrue || len(condition.Message) > 2000 || !strings.Contains(condition.Message, "and 97 more tokens") {
			t.Errorf("the condition is %+v", condition)
		}
	}
}

// TestShortAPDUs: discovery says it of a stick, and the pool warns while the stick is there.
func TestShortAPDUs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, "pico").served()
	entry := w.found("pico", "node-1", "A", "B")
	entry.DiscoveredDevices[1].ShortAPDUs = true
	w.report(entry)
	w.decide()
	w.wantWarnings("NeedsRelayout Unknown NotReported", "FirmwareKnownBad Unknown NotReported", "ShortAPDUs True WearDoubles")
	message := meta.FindStatusCondition(w.pool("pico").Status.Conditions, v1alpha1.HSMPoolShortAPDUs).Message
	if !strings.HasPrefix(message, "token B: ") || strings.Contains(message, "token A") || !strings.Contains(message, "docs/tokens.md") {
		t.Errorf("the message is %q", message)
	}
	w.report(w.found("pico", "node-1", "A", "B"))
	w.decide()
	w.wantWarnings("NeedsRelayout Unknown NotReported", "FirmwareKnownBad Unknown NotReported", "ShortAPDUs False NoneFound")
}

func TestTroubledMembers(t *testing.T) {
	d := decision{statuses: map[key]v1alpha1.HSMPoolStatus{{Name: "pico"}: {Members: []v1alpha1.PoolMember{
		{SerialNumber: "A", Profile: "pico", HardwareVersion: "8.6", NeedsRelayout: true},
		{SerialNumber: "B", Profile: "pico-6.6", HardwareVersion: "8.6", StuckObjects: []string{"seg-1-0"}},
		{SerialNumber: "C", Profile: "pico-next", HardwareVersion: "9.0"},
	}}}}
	measure(d)
	for problem, want := range map[string]float64{"StuckObjects": 1, "NeedsRelayout": 1, "FirmwareKnownBad": 2} {
		if got := testutil.ToFloat64(troubledMembers.WithLabelValues(problem)); got != want {
			t.Errorf("%s: %v, want %v", problem, got, want)
		}
	}
	measure(decision{})
	if got := testutil.ToFloat64(troubledMembers.WithLabelValues("NeedsRelayout")); got != 0 {
		t.Errorf("after the pool is gone: %v", got)
	}
}
