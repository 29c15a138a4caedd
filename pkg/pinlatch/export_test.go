// SPDX-License-Identifier: Apache-2.0

package pinlatch

// Hundreds of crash points need no slow hash.
func init() { argonMemory = 8 }
