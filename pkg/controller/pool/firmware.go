// SPDX-License-Identifier: Apache-2.0

package pool

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

//go:embed firmware.yaml
var firmwareTable []byte

// firmwareProblem is a row of firmware.yaml, which says what its fields mean.
type firmwareProblem struct {
	Name          string   `json:"name"`
	Profile       string   `json:"profile"`
	FirmwareBelow string   `json:"firmwareBelow,omitempty"`
	HardwareBelow string   `json:"hardwareBelow,omitempty"`
	NewerProfiles []string `json:"newerProfiles,omitempty"`
	// Message says what is lost when, and what to do.
	Message string `json:"message"`
}

var firmwareProblems = mustReadFirmware(firmwareTable)

// mustReadFirmware panics if the built-in table cannot be read, which a test would show.
func mustReadFirmware(table []byte) []firmwareProblem {
	var problems []firmwareProblem
	if err := yaml.UnmarshalStrict(table, &problems); err != nil {
		panic(fmt.Errorf("read the table of firmware: %w", err))
	}
	return problems
}

// firmwareProblemOf is the first problem that is known of a member's firmware, or nil.
func firmwareProblemOf(m *v1alpha1.PoolMember) *firmwareProblem {
	i := slices.IndexFunc(firmwareProblems, func(p firmwareProblem) bool { return p.appliesTo(m) })
	if i < 0 {
		return nil
	}
	return &firmwareProblems[i]
}

func (p *firmwareProblem) appliesTo(m *v1alpha1.PoolMember) bool {
	if m.Profile != p.Profile && !strings.HasPrefix(m.Profile, p.Profile+"-") {
		return false
	}
	if p.FirmwareBelow != "" && compareVersions(m.FirmwareVersion, p.FirmwareBelow) != older {
		return false
	}
	switch {
	case p.HardwareBelow == "":
		return true
	case compareVersions(m.HardwareVersion, p.HardwareBelow) == incomparable:
		return !slices.Contains(p.NewerProfiles, m.Profile)
	}
	return compareVersions(m.HardwareVersion, p.HardwareBelow) == older
}

// versionOrder is how a version of "major.minor" stands to another.
type versionOrder int

const (
	incomparable versionOrder = iota // One is not known.
	older
	sameOrNewer
)

func compareVersions(version, other string) versionOrder {
	v, ok := parseVersion(version)
	o, otherOK := parseVersion(other)
	switch {
	case !ok || !otherOK:
		return incomparable
	case slices.Compare(v, o) < 0:
		return older
	}
	return sameOrNewer
}

// parseVersion reads "major.minor". What knows no version says 0.0.
func parseVersion(version string) ([]int, bool) {
	major, minor, found := strings.Cut(version, ".")
	x, errX := strconv.Atoi(major)
	y, errY := strconv.Atoi(minor)
	if !found || errX != nil || errY != nil || x == 0 && y == 0 {
		return nil, false
	}
	return []int{x, y}, true
}
