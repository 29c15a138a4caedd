// SPDX-License-Identifier: Apache-2.0

package hsmpool

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/registry/hsm/table"
)

var tableConvertor = table.Convertor[*hsm.HSMPool]{
	Columns: []metav1.TableColumnDefinition{
		table.NameColumn,
		{Name: "Total", Type: "integer", Description: "Number of tokens found (status.totalDevices)."},
		{Name: "Available", Type: "integer", Description: "Number of tokens that can be used (status.availableDevices)."},
		{Name: "Reporting", Type: "string", Description: "Discovery pods that have reported / that should report (status.reportingPods, status.expectedPods)."},
		{Name: "Phase", Type: "string", Description: "State of the pool in one word (status.phase)."},
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
			table.Since(pool.Status.LastAggregationTime),
			table.Age(pool.CreationTimestamp),
		}
	},
}
