// SPDX-License-Identifier: Apache-2.0

package hsmpool

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/registry/hsm/table"
)

var tableConvertor = table.Convertor[*hsm.HSMPool]{
	Columns: []metav1.TableColumnDefinition{
		table.NameColumn,
		{Name: "Total", Type: "integer", Description: "Number of tokens found (status.totalDevices)."},
		{Name: "Available", Type: "integer", Description: "Number of tokens that can be used (status.availableDevices)."},
		{Name: "Reporting", Type: "string", Description: "Discovery pods that have reported / that should report (status.reportingPods, status.expectedPods)."},
		{Name: "Phase", Type: "string", Description: "State of the pool in one word (status.phase)."},
		{Name: "Warnings", Type: "string", Description: "What is to be done before it is too late (status.conditions NeedsRelayout, FirmwareKnownBad and ShortAPDUs)."},
		{Name: "Last Aggregation", Type: "string", Description: "Time since a report last changed the status (status.lastAggregationTime)."},
		table.AgeColumn,
	},
	Cells: func(pool *hsm.HSMPool) []any {
		return []any{
			pool.Name,
			int64(pool.Status.TotalDevices),
			int64(pool.Status.AvailableDevices),
			fmt.Sprintf("%d/%d", len(pool.Status.ReportingPods), pool.Status.ExpectedPods),
			table.Word(pool.Status.Phase),
			table.Word(warnings(pool)),
			table.Since(pool.Status.LastAggregationTime),
			table.Age(pool.CreationTimestamp),
		}
	},
}

// warnings are the conditions that are True when something is wrong.
func warnings(pool *hsm.HSMPool) string {
	var warnings []string
	for _, condition := range []string{v1alpha1.HSMPoolNeedsRelayout, v1alpha1.HSMPoolFirmwareKnownBad, v1alpha1.HSMPoolShortAPDUs} {
		if meta.IsStatusConditionTrue(pool.Status.Conditions, condition) {
			warnings = append(warnings, condition)
		}
	}
	return strings.Join(warnings, ",")
}
