// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

func TestTable(t *testing.T) {
	t.Parallel()
	// Rounded down for people, these stay 3h and 5m for a while.
	now := time.Now()
	fresh := stored(t, func(s *v1alpha1.HSMSecret) { s.Spec.SecretName = "db-credentials" })
	fresh.CreationTimestamp = metav1.NewTime(now.Add(-3 * time.Hour))
	synced := fresh.DeepCopy()
	synced.Status = hsm.HSMSecretStatus{
		SyncStatus:   hsm.SyncStatusInSync,
		LastSyncTime: new(metav1.NewTime(now.Add(-5 * time.Minute))),
		DataVersion:  "17",
		HSMPath:      "secrets/app/db",
	}
	list := &hsm.HSMSecretList{ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "next"}, Items: []hsm.HSMSecret{*fresh, *synced}}

	got, err := tableConvertor.ConvertToTable(t.Context(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, column := range got.ColumnDefinitions {
		columns = append(columns, fmt.Sprintf("%s %d", column.Name, column.Priority))
		if column.Description == "" {
			t.Errorf("column %s has no description", column.Name)
		}
	}
	if want := []string{"Name 0", "Secret 0", "Sync Status 0", "Last Sync 0", "Age 0", "Type 1", "Path 1", "Version 1", "Keys 1"}; !slices.Equal(columns, want) {
		t.Errorf("columns are %q, want %q", columns, want)
	}
	for i, want := range []string{
		"[db db-credentials <none> <none> 3h Opaque secrets/app/db <none> 1]",
		"[db db-credentials InSync 5m 3h Opaque secrets/app/db 17 1]",
	} {
		cells := fmt.Sprint(got.Rows[i].Cells)
		if cells != want {
			t.Errorf("row %d is %s, want %s", i, cells, want)
		}
		if strings.Contains(cells, canary) {
			t.Errorf("row %d shows a value", i)
		}
	}
	if got.ResourceVersion != "9" || got.Continue != "next" {
		t.Errorf("the table has resourceVersion %q and continue %q, want those of the list", got.ResourceVersion, got.Continue)
	}
}
