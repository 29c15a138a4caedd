// SPDX-License-Identifier: Apache-2.0

// Package table turns objects into the rows that kubectl get prints. Each
// resource gives its own columns and cells; it never sees a request.
package table

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// The columns that every table begins and ends with.
var (
	NameColumn = metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
	AgeColumn  = metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: "Time since metadata.creationTimestamp."}
)

// Convertor is a rest.TableConvertor for objects of type T and lists of them.
type Convertor[T runtime.Object] struct {
	Columns []metav1.TableColumnDefinition
	// Cells gives one cell for each column.
	Cells func(T) []any
}

// ConvertToTable makes a row of an object, or of each item of a list.
func (c Convertor[T]) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	if options, ok := options.(*metav1.TableOptions); !ok || !options.NoHeaders {
		table.ColumnDefinitions = c.Columns
	}
	if !meta.IsListType(object) {
		accessor, err := meta.CommonAccessor(object)
		if err != nil {
			return nil, err
		}
		table.ResourceVersion = accessor.GetResourceVersion()
		return table, c.addRow(table, object)
	}
	list, err := meta.ListAccessor(object)
	if err != nil {
		return nil, err
	}
	table.ResourceVersion = list.GetResourceVersion()
	table.Continue = list.GetContinue()
	table.RemainingItemCount = list.GetRemainingItemCount()
	return table, meta.EachListItem(object, func(item runtime.Object) error { return c.addRow(table, item) })
}

func (c Convertor[T]) addRow(table *metav1.Table, object runtime.Object) error {
	typed, ok := object.(T)
	if !ok {
		return fmt.Errorf("cannot print %T in a table of %T", object, typed)
	}
	table.Rows = append(table.Rows, metav1.TableRow{
		Cells:  c.Cells(typed),
		Object: runtime.RawExtension{Object: object},
	})
	return nil
}

// Age is the time since t for people, such as 5m; <unknown> if t is not set.
func Age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// Since is the time since something last happened; <none> if it never did.
func Since(t *metav1.Time) string {
	if t.IsZero() {
		return "<none>"
	}
	return Age(*t)
}

// Word is s; <none> if it is empty.
func Word[S ~string](s S) string {
	if s == "" {
		return "<none>"
	}
	return string(s)
}
