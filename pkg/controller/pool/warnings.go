// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// Warnings are conditions that are True when a token is served, and something is to be
// done all the same, before it is too late. They do not touch the phase.

// A warning says what is wrong with a member; empty if nothing is.
type warning func(*v1alpha1.PoolMember) string

func relayoutWarning(m *v1alpha1.PoolMember) string {
	if !m.NeedsRelayout {
		return ""
	}
	return "its flash is fragmented: it refuses writes although it seems to have room. Nothing is lost, and reads go on. " +
		"Delete HSMSecrets that nobody needs, and plan for firmware that does not fragment; docs/tokens.md says more"
}

func firmwareWarning(m *v1alpha1.PoolMember) string {
	problem := firmwareProblemOf(m)
	if problem == nil {
		return ""
	}
	return fmt.Sprintf("firmware %s, hardware %s: %s: %s", cmp.Or(m.FirmwareVersion, "unknown"), cmp.Or(m.HardwareVersion, "unknown"), problem.Name, problem.Message)
}

// warningConditions are all of them.
func warningConditions(members []v1alpha1.PoolMember) []metav1.Condition {
	return []metav1.Condition{
		warningCondition(members, v1alpha1.HSMPoolNeedsRelayout, "FlashFragments", "NoneNeeded", relayoutWarning),
		warningCondition(members, v1alpha1.HSMPoolFirmwareKnownBad, "LosesData", "NothingKnown", firmwareWarning),
	}
}

// warningCondition is true, for the reason bad, if there is a warning about a member. It is
// unknown while no agent has said what its token is.
func warningCondition(members []v1alpha1.PoolMember, conditionType, bad, good string, of warning) metav1.Condition {
	var warnings []string
	for i := range members {
		if text := of(&members[i]); text != "" {
			warnings = append(warnings, fmt.Sprintf("token %s: %s", members[i].SerialNumber, text))
		}
	}
	switch {
	case len(warnings) > 0:
		if more := len(warnings) - maxWarned; more > 0 {
			warnings = append(warnings[:maxWarned], fmt.Sprintf("and %d more tokens", more))
		}
		return metav1.Condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: bad, Message: strings.Join(warnings, "; ")}
	case !slices.ContainsFunc(members, func(m v1alpha1.PoolMember) bool { return m.Profile != "" }):
		return metav1.Condition{Type: conditionType, Status: metav1.ConditionUnknown, Reason: "NotReported", Message: "no agent has served its token yet"}
	}
	return metav1.Condition{Type: conditionType, Status: metav1.ConditionFalse, Reason: good}
}

// maxWarned is how many tokens a condition names.
const maxWarned = 3
