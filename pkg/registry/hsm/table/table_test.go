// SPDX-License-Identifier: Apache-2.0

package table

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
)

var names = Convertor[*hsm.HSMPool]{
	Columns: []metav1.TableColumnDefinition{NameColumn},
	Cells:   func(pool *hsm.HSMPool) []any { return []any{pool.Name} },
}

func TestConvertToTable(t *testing.T) {
	t.Parallel()
	pool := &hsm.HSMPool{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "1"}}
	one, err := names.ConvertToTable(t.Context(), pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Rows) != 1 || one.Rows[0].Object.Object != pool || one.ResourceVersion != "1" || len(one.ColumnDefinitions) != 1 {
		t.Errorf("the table of an object is %+v", one)
	}

	list := &hsm.HSMPoolList{ListMeta: metav1.ListMeta{ResourceVersion: "2", Continue: "c", RemainingItemCount: new(int64(3))}, Items: []hsm.HSMPool{*pool, *pool}}
	many, err := names.ConvertToTable(t.Context(), list, &metav1.TableOptions{NoHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(many.Rows) != 2 || many.ResourceVersion != "2" || many.Continue != "c" || *many.RemainingItemCount != 3 || many.ColumnDefinitions != nil {
		t.Errorf("the table of a list without headers is %+v", many)
	}

	if _, err := names.ConvertToTable(t.Context(), &hsm.HSMDevice{}, nil); err == nil {
		t.Error("an object of another type is printed")
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	if got := Since(nil) + Since(&metav1.Time{}) + Age(metav1.Time{}) + Word("") + Word("a"); got != "<none><none><unknown><none>a" {
		t.Errorf("texts are %s", got)
	}
}
