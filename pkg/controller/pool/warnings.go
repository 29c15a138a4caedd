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

// shortAPDUsMessage is about a device, as the others are about a member.
const shortAPDUsMessage = "its reader takes short APDUs only: values are written in pieces, which wears it out twice as fast, " +
	"and a power cut can damage older values; use another reader or firmware; docs/tokens.md says more"

// warningConditions are all of them.
func warningConditions(status *v1alpha1.HSMPoolStatus) []metav1.Condition {
	return []metav1.Condition{
		memberCondition(status.Members, v1alpha1.HSMPoolNeedsRelayout, "FlashFragments", "NoneNeeded", relayoutWarning),
		memberCondition(status.Members, v1alpha1.HSMPoolFirmwareKnownBad, "LosesData", "NothingKnown", firmwareWarning),
		shortAPDUsCondition(status.AggregatedDevices),
	}
}

// memberCondition is true, for the reason bad, if there is a warning about a member. It is
// unknown while no agent has said what its token is.
func memberCondition(members []v1alpha1.PoolMember, conditionType, bad, good string, of warning) metav1.Condition {
	var warnings []string
	for i := range members {
		if text := of(&members[i]); text != "" {
			warnings = append(warnings, fmt.Sprintf("token %s: %s", members[i].SerialNumber, text))
		}
	}
	if len(warnings) == 0 && !slices.ContainsFunc(members, func(m v1alpha1.PoolMember) bool { return m.Profile != "" }) {
		return metav1.Condition{Type: conditionType, Status: metav1.ConditionUnknown, Reason: "NotReported", Message: "no agent has served its token yet"}
	}
	return warningCondition(conditionType, bad, good, warnings)
}

func shortAPDUsCondition(devices []v1alpha1.AggregatedDevice) metav1.Condition {
	var warnings []string
	for i := range devices {
		if devices[i].ShortAPDUs {
			warnings = append(warnings, deviceLabel(&devices[i])+": "+shortAPDUsMessage)
		}
	}
	return warningCondition(v1alpha1.HSMPoolShortAPDUs, "WearDoubles", "NoneFound", warnings)
}

// warningCondition is true if there are warnings, and tells the first of them.
func warningCondition(conditionType, bad, good string, warnings []string) metav1.Condition {
	if len(warnings) == 0 {
		return metav1.Condition{Type: conditionType, Status: metav1.ConditionFalse, Reason: good}
	}
	if more := len(warnings) - maxWarned; more > 0 {
		warnings = append(warnings[:maxWarned], fmt.Sprintf("and %d more tokens", more))
	}
	return metav1.Condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: bad, Message: strings.Join(warnings, "; ")}
}

// maxWarned is how many tokens a condition names.
const maxWarned = 3
