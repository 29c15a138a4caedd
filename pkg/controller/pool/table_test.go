// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

func TestPhaseOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		counts poolCounts
		want   v1alpha1.PoolPhase
	}{
		"discovery does not run":              {poolCounts{}, v1alpha1.PoolPhasePending},
		"no report yet":                       {poolCounts{missing: 2, pending: 2, discoveryRuns: true}, v1alpha1.PoolPhasePending},
		"no report, and late":                 {poolCounts{missing: 2, discoveryRuns: true}, v1alpha1.PoolPhasePending},
		"some reports, no token yet":          {poolCounts{reporting: 1, missing: 1, pending: 1, discoveryRuns: true}, v1alpha1.PoolPhaseAggregating},
		"a new agent":                         {poolCounts{tokens: 2, usable: 1, starting: 1, reporting: 1, discoveryRuns: true}, v1alpha1.PoolPhaseAggregating},
		"all well":                            {poolCounts{tokens: 2, usable: 2, reporting: 1, discoveryRuns: true}, v1alpha1.PoolPhaseReady},
		"all well, discovery was removed":     {poolCounts{tokens: 2, usable: 2, reporting: 1}, v1alpha1.PoolPhaseReady},
		"a report is late":                    {poolCounts{tokens: 1, usable: 1, reporting: 2, missing: 1, discoveryRuns: true}, v1alpha1.PoolPhasePartial},
		"a report is late, another new":       {poolCounts{tokens: 1, usable: 1, reporting: 3, missing: 2, pending: 1, discoveryRuns: true}, v1alpha1.PoolPhasePartial},
		"one token fails":                     {poolCounts{tokens: 2, usable: 1, failing: 1, reporting: 1, discoveryRuns: true}, v1alpha1.PoolPhasePartial},
		"one token fails, the other starts":   {poolCounts{tokens: 2, starting: 1, failing: 1, reporting: 1, discoveryRuns: true}, v1alpha1.PoolPhasePartial},
		"all tokens fail":                     {poolCounts{tokens: 2, failing: 2, reporting: 1, discoveryRuns: true}, v1alpha1.PoolPhaseError},
		"all have reported, none has a token": {poolCounts{reporting: 1, discoveryRuns: true}, v1alpha1.PoolPhaseError},
		"no node is selected":                 {poolCounts{discoveryRuns: true}, v1alpha1.PoolPhaseError},
	} {
		if got := phaseOf(c.counts); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		facts deviceFacts
		want  verdict
	}{
		"new":                            {deviceFacts{reported: true, reportCounts: true, nodeHasPod: true}, verdictUsable},
		"reported again":                 {deviceFacts{reported: true, reportCounts: true, nodeHasPod: true, listed: true}, verdictUsable},
		"in the report of an error":      {deviceFacts{reported: true, reportCounts: true, listed: true}, verdictUsable},
		"refused":                        {deviceFacts{reported: true, refused: true, reportCounts: true}, verdictRefused},
		"refused, in an old report":      {deviceFacts{reported: true, refused: true}, verdictRefused},
		"in an old report":               {deviceFacts{reported: true, listed: true, nodeHasPod: true}, verdictSilent},
		"in an old report, no pod":       {deviceFacts{reported: true, listed: true}, verdictSilent},
		"in an old report, dropped":      {deviceFacts{reported: true}, verdictDropped},
		"listed, no report":              {deviceFacts{listed: true, nodeHasPod: true, absenceCounts: true, nodeSelected: true}, verdictSilent},
		"missing in the report of error": {deviceFacts{listed: true, reportCounts: true, nodeSelected: true}, verdictUnchanged},
		"missing, not selected":          {deviceFacts{listed: true, reportCounts: true, absenceCounts: true}, verdictNotSelected},
		"missing":                        {deviceFacts{listed: true, reportCounts: true, absenceCounts: true, nodeSelected: true}, verdictUnplugged},
	} {
		if got := judge(c.facts); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestStandingOf(t *testing.T) {
	t.Parallel()
	answering := memberFacts{
		deviceListed: true, deviceAvailable: true, hasPod: true, podRuns: true, podReady: true,
		polled: true, answers: true, answered: true, endpointKept: true,
	}
	type change = func(*memberFacts)
	refused := func(f *memberFacts) { f.deviceAvailable = false }
	absent := func(f *memberFacts) { f.deviceAvailable, f.deviceAbsent = false, true }
	noPod := func(f *memberFacts) { f.hasPod, f.podRuns, f.podReady = false, false, false }
	notPolled := func(f *memberFacts) { f.polled, f.answers, f.answered = false, false, false }
	newEndpoint := func(f *memberFacts) { f.endpointKept = false }
	silent := func(f *memberFacts) { f.answers = false }
	neverAnswered := func(f *memberFacts) { f.answers, f.answered = false, false }
	notReady := func(f *memberFacts) { f.podReady = false }
	for name, c := range map[string]struct {
		changes []change
		want    standing
	}{
		"answers":                          {nil, standsAnswered},
		"its device is absent, it answers": {[]change{absent}, standsAnswered},
		"its device is refused":            {[]change{refused}, standsRefused},
		"refused, without a pod":           {[]change{refused, noPod}, standsRefused},
		"neither device nor pod":           {[]change{absent, noPod}, standsAbsent},
		"no pod":                           {[]change{noPod}, standsWithoutPod},
		"not listed, it answers":           {[]change{func(f *memberFacts) { f.deviceListed, f.deviceAvailable = false, false }}, standsAnswered},
		"the pod does not run":             {[]change{func(f *memberFacts) { f.podRuns = false }}, standsNotRunning},
		"not polled since the start":       {[]change{notPolled}, standsUnchanged},
		"not polled, another endpoint":     {[]change{notPolled, newEndpoint}, standsStarting},
		"silent, and never ready":          {[]change{neverAnswered, notReady}, standsStarting},
		"silent, though ready":             {[]change{neverAnswered}, standsUnreachable},
		"fell silent":                      {[]change{silent, notReady}, standsUnreachable},
	} {
		f := answering
		for _, change := range c.changes {
			change(&f)
		}
		if got := standingOf(f); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestPoolsOfDevices: an HSMDevice without a pool gets one, unless a pool lists it already.
func TestPoolsOfDevices(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, "made", "by-hand", "listed", "alone")
	w.pool("made").OwnerReferences = []metav1.OwnerReference{{Kind: "HSMDevice", Name: "made", Controller: new(true)}}
	w.pool("by-hand").Spec.HSMDeviceRefs = []string{"by-hand", "listed"}
	w.pools = slices.DeleteFunc(w.pools, func(p *v1alpha1.HSMPool) bool { return p.Name == "listed" || p.Name == "alone" })
	w.decide()
	if len(w.last.missing) != 1 || w.last.missing[0].Name != "alone" {
		t.Errorf("pools are made for %v, want alone", w.last.missing)
	}
	if len(w.last.notOwned) != 1 || w.last.notOwned[0].device != "by-hand" || w.last.notOwned[0].pool.Name != "by-hand" {
		t.Errorf("not made for their HSMDevices are %v, want by-hand", w.last.notOwned)
	}
}
