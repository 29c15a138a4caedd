// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/registry/hsm/table"
)

// tableConvertor never prints a value of data, only how many there are.
var tableConvertor = table.Convertor[*hsm.HSMSecret]{
	Columns: []metav1.TableColumnDefinition{
		table.NameColumn,
		{Name: "Secret", Type: "string", Description: "Name of the Secret into which data is projected (spec.secretName, or its default)."},
		{Name: "Sync Status", Type: "string", Description: "Whether token and Secret hold the same data (status.syncStatus)."},
		{Name: "Last Sync", Type: "string", Description: "Time since data was last synced (status.lastSyncTime)."},
		table.AgeColumn,
		{Name: "Type", Type: "string", Priority: 1, Description: "Type of the Secret (spec.secretType)."},
		{Name: "Path", Type: "string", Priority: 1, Description: "Address on the token (status.hsmPath)."},
		{Name: "Version", Type: "string", Priority: 1, Description: "Version of data on the token (status.dataVersion)."},
		{Name: "Keys", Type: "integer", Priority: 1, Description: "Number of entries in data."},
	},
	Cells: func(secret *hsm.HSMSecret) []any {
		return []any{
			secret.Name,
			secret.SecretName(),
			table.Word(secret.Status.SyncStatus),
			table.Since(secret.Status.LastSyncTime),
			table.Age(secret.CreationTimestamp),
			string(secret.Spec.SecretType),
			secret.Status.HSMPath,
			table.Word(secret.Status.DataVersion),
			int64(len(secret.Data)),
		}
	},
}
