// SPDX-License-Identifier: Apache-2.0

package compare

import "slices"

// table is all calls.
func table() []row {
	return slices.Concat(createRows, validationRows, getRows, listRows, updateRows, patchRows, applyRows,
		deleteRows, deleteCollectionRows, watchRows, watchListRows, mediaRows, accessRows, verbRows)
}
